"""SNOMED CT codes of the PhysioNet/CinC Challenges 2020 and 2021, as named classes.

Codes and abbreviations: ``dx_mapping_scored.csv`` and ``dx_mapping_unscored.csv`` of
https://github.com/physionetchallenges/evaluation-2021; Perez Alday et al., Physiol. Meas. 41,
124003 (2020), https://doi.org/10.1088/1361-6579/abc960. What the Challenge scores as the same
diagnosis is one class here: CRBBB and RBBB, CLBBB and LBBB, SVPB and PAC, VPB and PVC.
"""

from __future__ import annotations

SCORED = {
    "164889003": "AF", "164890007": "AFL", "6374002": "BBB", "426627000": "Brady",
    "733534002": "LBBB", "164909002": "LBBB", "713427006": "RBBB", "59118001": "RBBB",
    "270492004": "IAVB", "713426002": "IRBBB", "39732003": "LAD", "445118002": "LAnFB",
    "251146004": "LQRSV", "698252002": "NSIVCB", "426783006": "NSR", "284470004": "PAC",
    "63593006": "PAC", "10370003": "PR", "365413008": "PRWP", "427172004": "PVC",
    "17338001": "PVC", "164947007": "LPR", "111975006": "LQT", "164917005": "QAb",
    "47665007": "RAD", "427393009": "SA", "426177001": "SB", "427084000": "STach",
    "164934002": "TAb", "59931005": "TInv",
}  # fmt: skip
"""What the 2021 Challenge scores."""
OTHERS = {
    "106068003": "ARH", "111288001": "VFL", "11157007": "VBig", "13640000": "FB",
    "164861001": "MIs", "164865005": "MI", "164867002": "OldMI", "164873001": "LVH",
    "164884008": "VEB", "164895002": "VTach", "164896001": "VF", "164912004": "PWC",
    "164921003": "RAb", "164930006": "STIAb", "164931005": "STE", "164937009": "UAb",
    "164942001": "FQRS", "164951009": "abQRS", "17366009": "SAAWR", "195042002": "IIAVB",
    "195060002": "VPEx", "195080001": "AFAFL", "195101003": "WAP", "195126007": "AH",
    "204384007": "CIAHB", "233892002": "AAR", "233897008": "AVRT", "233917008": "AVB",
    "251120003": "ILBBB", "251139008": "ALR", "251164006": "JPC", "251166008": "AVNRT",
    "251168009": "SVB", "251170000": "BPAC", "251173003": "AB", "251180001": "VTrig",
    "251182009": "VPVC", "251187003": "AED", "251198002": "CR", "251199005": "CCR",
    "251200008": "ICA", "251205003": "PPW", "251223006": "TPW", "251259000": "HTV",
    "251266004": "VPP", "251268003": "AP", "253339007": "RAAb", "253352002": "LAA",
    "266249003": "VH", "27885002": "CHB", "282825002": "PAF", "29320008": "AVJR",
    "314208002": "RAF", "370365005": "LVS", "413444003": "AMIs", "413844008": "CMI",
    "418818005": "BRU", "425419005": "IIs", "425623009": "LIs", "425856008": "PVT",
    "426183003": "IIAVBII", "426434006": "AnMIs", "426648003": "JTach", "426664006": "AJR",
    "426749004": "CAF", "426761007": "SVT", "426995002": "JE", "428417006": "ERe",
    "428750005": "NSSTTA", "429622005": "STD", "445211001": "LPFB", "446358003": "RAH",
    "446813000": "LAH", "49260003": "IR", "49578007": "SPRI", "50799005": "AVD",
    "54016002": "MoI", "54329005": "AnMI", "55827005": "LVHV", "55930002": "STC",
    "5609005": "SARR", "57054005": "AMI", "60423000": "SND", "61277005": "AIVR",
    "61721007": "CVCL/CCVCL", "65778007": "SAB", "67198005": "PSVT", "67741000119109": "LAE",
    "67751000119106": "RAHV", "704997005": "ISTD", "713422000": "ATach", "74390002": "WPW",
    "74615001": "BTS", "75532003": "VEsB", "77867006": "SQT", "81898007": "VEsR",
    "82226007": "DIB", "89792004": "RVH",
}  # fmt: skip
"""What it does not score, as far as an ECG shows it."""
CLASSES = SCORED | OTHERS

_OLD_ABBREVIATIONS = {"CLBBB": "LBBB", "CRBBB": "RBBB", "SVPB": "PAC", "VPB": "PVC"}
_NAMES = {
    "atrial fibrillation": "AF", "atrial flutter": "AFL", "bundle branch block": "BBB",
    "bradycardia": "Brady", "left bundle branch block": "LBBB",
    "complete left bundle branch block": "LBBB", "right bundle branch block": "RBBB",
    "complete right bundle branch block": "RBBB", "1st degree av block": "IAVB",
    "first degree av block": "IAVB", "first degree atrioventricular block": "IAVB",
    "incomplete right bundle branch block": "IRBBB", "left axis deviation": "LAD",
    "left anterior fascicular block": "LAnFB", "low qrs voltages": "LQRSV",
    "nonspecific intraventricular conduction disorder": "NSIVCB", "sinus rhythm": "NSR",
    "normal sinus rhythm": "NSR", "premature atrial contraction": "PAC",
    "supraventricular premature beats": "PAC", "pacing rhythm": "PR",
    "poor r wave progression": "PRWP", "premature ventricular contractions": "PVC",
    "ventricular premature beats": "PVC", "prolonged pr interval": "LPR",
    "prolonged qt interval": "LQT", "qwave abnormal": "QAb", "right axis deviation": "RAD",
    "sinus arrhythmia": "SA", "sinus bradycardia": "SB", "sinus tachycardia": "STach",
    "t wave abnormal": "TAb", "t wave inversion": "TInv",
}  # fmt: skip
BY_WORD = {
    **{name.lower(): name for name in CLASSES.values()},
    **{short.lower(): name for short, name in _OLD_ABBREVIATIONS.items()},
    **_NAMES,
}
"""Abbreviations, and the scored diagnoses' names, in lower case → class."""

RHYTHM_OF_CLASS = {
    "AF": "AFIB", "PAF": "AFIB", "CAF": "AFIB", "RAF": "AFIB", "AFAFL": "AFIB", "AFL": "AFLT",
    "SVT": "SVTAC", "ATach": "SVTAC", "AVRT": "SVTAC", "AVNRT": "SVTAC", "PSVT": "PSVT",
    "PR": "PACE", "VPP": "PACE", "AP": "PACE", "VBig": "BIGU", "AB": "BIGU", "SVB": "BIGU",
    "VTrig": "TRIGU", "STach": "STACH", "SB": "SBRAD", "SA": "SARRH", "NSR": "SR",
    "VF": "VFIB", "VFL": "VFIB", "VTach": "VTAC", "PVT": "VTAC", "AIVR": "VTAC", "IR": "VTAC",
    "VEsR": "VTAC", "AVJR": "JUNC", "JTach": "JUNC", "AJR": "JUNC", "ARH": "EAR", "AAR": "EAR",
}  # fmt: skip
"""What of them says which of `enecg.records.sources.rhythms.RHYTHMS` a record shows."""
