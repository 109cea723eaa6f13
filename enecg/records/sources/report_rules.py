"""The rules by which an electrocardiograph's report lines name a rhythm: tables, no code.

All patterns are for lines as `enecg.records.sources.report_lines.tidy_line` leaves them: lower
case, single blanks. docs/report_lines.md explains them with examples.
"""

from __future__ import annotations

from typing import NamedTuple


class Cues(NamedTuple):
    """Words near a rhythm that take its label away.

    Attributes
    ----------
    before, after : str
        Patterns of such words, before and after the rhythm.
    parted_by : str
        What must not stand between them and the rhythm: a new part of the sentence, or a finding
        that the words are about instead.
    """

    before: str
    after: str
    parted_by: str


class Rule(NamedTuple):
    """One row of `RULES`.

    Attributes
    ----------
    pattern : str
        What the line says.
    rhythm : str or None
        The class; None: it looks like a rhythm, and is none.
    priority : int
        Of several rhythms in a report, the one with the smallest number is the class.
    negation, doubt : Cues
        What denies the rhythm (it is not there, or was once), and what doubts it.
    """

    pattern: str
    rhythm: str | None
    priority: int
    negation: Cues
    doubt: Cues


_PUNCTUATION = r"[,;:()]|\.(?=\s)| - |--"
_BEATS = (
    r"\b(complex(es)?|beats?|contractions?|extrasystoles?|depolari[sz]ations?|p[avjs]cs?|premature|"
    r"ectop(y|ics?)(?! atrial)|couplets?|aberran\w+|fusion)\b"
)
_FINDINGS = (
    r"\b(infarct\w*|mi|stemi|isch\w+|injur\w+|hypertroph\w*|enlarge\w*|[lr]vh|[lr]ae|blocks?|"
    r"blocked|[lr]bbb|[lr][ap]fb|fascicular|hemiblock|delay|conduction|wpw|pre-?excitation|"
    r"deviation|axis|age|variants?|abnormal\w*|changes?|(p|q|r|s|t|u|st)-?waves?|waves?|voltages?|"
    r"pericarditis|disease|effusion|repolari[sz]ation|progression|reversal|placement|artifacts?|"
    r"noise|ecg|ekg|tracing|analysis|interpretation|report|quality|data|elevation|depression|"
    r"prolong\w*|qtc?|pr|effects?|leads?|criteria|strain|overload|digitalis|drugs?|embol\w+|"
    r"hyperkal\w+|hypokal\w+|rate|irregularity|but)\b"
)
_PARTS = rf"{_PUNCTUATION}|{_FINDINGS}"
AFTER_PARTED_BY = rf"{_PUNCTUATION}|{_FINDINGS}|{_BEATS}"
"""What must not stand between a rhythm and a word after it; \"with\" may."""
_END = r"(?=\W*$|\s*[,;.)]|\W+(with|and|but|when|since|compared|in|on|at|by|from)\b)"
"""Where a word after a rhythm must end: "possible" in "possible LVH" is about something else."""

_NOT_BEFORE = (
    r"\b(no|not|without|w/o|absence of|absent|lack of|loss of|negative for|never|neither|nor|"
    r"rather than|other than|instead of|no longer|resolution of|"
    r"replac(ed|es|ing)(?! by)|(convert|revert|chang|switch)\w* from|(con|re)version from|"
    r"previous(ly)?|prior|former(ly)?|earlier|history of|h/o|hx of|past|status post|s/p)\b"
    r"|\bnon[- ]*$|\bpseudo[- ]*$"
)
_NOT_AFTER = (
    r"\b((is|are|was|were|has|have|had|been|being|now) )*"
    r"(no longer\b|not (now )?(present|seen|detected|evident|found|identified|noted|there)\b|"
    r"(absent|gone|resolved|disappeared|ceased|terminated|ruled out|excluded|unlikely|denied)\b"
    rf"{_END}|replaced by\b|(converted|reverted|changed|switched) (in)?to\b|(?<!as )previously\b|"
    r"formerly\b|in the past\b|in (19|20)\d\d\b|now (in )?(normal )?sinus\b|"
    r"(seen |present |noted )?(on|in) (the |a )?(previous|prior|last|old|earlier)\b)"
)
_MAYBE_BEFORE = (
    r"\b(possibl[ey]|probabl[ey]|(most |more )?likely|suspect(ed|s)?|suspicious for|"
    r"suspicion of|consider(ed|ing)?|rule out|r/o|exclud(e|ing)|question(able)?( of)?|perhaps|"
    r"maybe|may be|might be|could be|can be|may represent|appears?( to be)?|seems?( to be)?|"
    r"apparent(ly)?|presum\w+|suggest(s|ing|ive of)?|consistent with|compatible with|"
    r"(cannot|unable to|not possible to) \w+( out)?|uncertain|unclear|equivocal|undetermined|"
    r"indeterminate|doubtful|dubious|unconfirmed|potential|differential|either|whether|if|"
    r"simulat\w+|mimic\w*|resembl\w+|evaluate for|check for|assess for)\b|(^|[\s(,;:-])\?+"
)
_MAYBE_AFTER = (
    r"\b((is|are|remains?) )?(a )?(possible|probable|possibly|probably|likely|possibility|"
    r"consideration|suspected|suspect|presumed|questionable|questioned|uncertain|unclear|equivocal|doubtful|unconfirmed|"
    rf"considered|indeterminate|undetermined)\b{_END}"
    r"|\b(cannot|can never) be \w+( out)?|\bnot (excluded|ruled out|confirmed|certain)\b"
    rf"|\b(may|might|could|should|must) be (present|considered|excluded|ruled out|suspected)\b"
    rf"|\?{_END}"
)
_WITH = r"\bwith\b"
DENIED = Cues(_NOT_BEFORE, _NOT_AFTER, rf"{_PARTS}|{_BEATS}|{_WITH}|\b(in)?to\b|\bdue to\b")
DOUBTED = Cues(_MAYBE_BEFORE, _MAYBE_AFTER, rf"{_PARTS}|{_BEATS}|{_WITH}")
# Beats in bigeminy are the rhythm: where they are denied or doubted, so is it.
BEATS_DENIED = Cues(_NOT_BEFORE, _NOT_AFTER, rf"{_PARTS}|{_WITH}")
BEATS_DOUBTED = Cues(_MAYBE_BEFORE, _MAYBE_AFTER, rf"{_PARTS}|{_WITH}")
# "sinus tachycardia with sinus arrhythmia" is one rhythm: doubted or denied as a whole.
VARIANT_DENIED = Cues(_NOT_BEFORE, _NOT_AFTER, rf"{_PARTS}|{_BEATS}|\b(in)?to\b|\bdue to\b")
VARIANT_DOUBTED = Cues(_MAYBE_BEFORE, _MAYBE_AFTER, rf"{_PARTS}|{_BEATS}")

_CHAMBER = (
    r"((a-?v|av|atrial|atrio-?ventricular|ventricular|biventricular|bi-?v|dual|chamber|a|v|sequential|"
    r"electronic|artificial|demand|sensed|triggered|tracked|single)[ /-]+((or|and) )?)*"
)
MODIFIERS = (
    r"\bwith (an? )?(\w+ )?(\d ?(:|to) ?\d|variable|varying|varied|rapid|slow|(un)?controlled|high|"
    r"fixed) (a-?v )?(ventricular )?(block|conduction|response|rate)"
)
"""What belongs to the rhythm before it: a doubt after it is a doubt about that rhythm."""
RULES = (
    Rule(
        r"\batrial fib(rillation)?\b|\ba\.?[ -]?fib(rillation)?\b|\bauricular fibrillation\b",
        "AFIB", 1, DENIED, DOUBTED,
    ),
    Rule(
        r"\batrial flut(ter)?\b|\ba\.?[ -]?flut(ter)?\b|\bauricular flutter\b",
        "AFLT", 2, DENIED, DOUBTED,
    ),
    Rule(
        r"\bsupra[ -]?ventricular (re-?entr\w+ )?tachy(cardia)?\b|\bsvt\b|"
        r"\b((multifocal|multi-focal|unifocal|ectopic|chaotic|irregular|junctional) )*"
        r"atrial tachy(cardia)?\b|\bav(n)?rt\b|"
        r"\ba-?v (nodal )?(re-?entr\w+|reciprocating) tachycardia\b",
        "SVTAC", 3, DENIED, DOUBTED,
    ),
    Rule(
        r"\bparoxysmal (supra[ -]?ventricular|atrial|av nodal) tachy(cardia)?\b|\bpsvt\b",
        "PSVT", 4, DENIED, DOUBTED,
    ),
    Rule(
        rf"\b{_CHAMBER}(pace-?makers?|pacer|paced|pacing)\b( (rhythm|spikes?))?",
        "PACE", 5, DENIED, DOUBTED,
    ),
    Rule(r"\bbigemin\w+\b", "BIGU", 6, BEATS_DENIED, BEATS_DOUBTED),
    Rule(r"\btrigemin\w+\b", "TRIGU", 7, BEATS_DENIED, BEATS_DOUBTED),
    Rule(r"\bsinus tach(y|ycardia)?\b", "STACH", 8, DENIED, DOUBTED),
    Rule(r"\bsinus brady(cardia)?\b", "SBRAD", 9, DENIED, DOUBTED),
    Rule(r"\bsinus ar+h?yth?mia\b", "SARRH", 10, VARIANT_DENIED, VARIANT_DOUBTED),
    Rule(r"\bsupra[ -]?ventricular ar+h?yth?mia\b", "SVARR", 11, DENIED, DOUBTED),
    Rule(
        r"\b(normal )?sinus[ -]r?h?yth?m\b|\bnormal sinus\b(?! (tach|brad|ar))|\bnsr\b",
        "SR", 12, DENIED, DOUBTED,
    ),
    # Not among PTB-XL's; they come after its own, as in `enecg.records.sources.rhythms`.
    Rule(r"\bventricular (fibrillation|flutter)\b|\bv-?fib\b", "VFIB", 13, DENIED, DOUBTED),
    Rule(
        r"(?<!supra-)(?<!supra )\bventricular (tachy(cardia)?|(escape )?rhythm)\b|\bv-?tach\b|"
        r"\bidio-?ventricular (escape )?(rhythm|tachycardia)\b|\btorsades?\b",
        "VTAC", 14, DENIED, DOUBTED,
    ),
    Rule(
        r"\b(junctional|(a-?v )?nodal) (escape )?(rhythm|tachycardia|bradycardia)\b",
        "JUNC", 15, DENIED, DOUBTED,
    ),
    Rule(
        r"\b(ectopic|low|left|accelerated|coronary sinus)( ectopic)? atrial "
        r"(escape )?(rhythm|bradycardia)\b|\batrial (escape )?rhythm\b",
        "EAR", 16, DENIED, DOUBTED,
    ),
    Rule(
        r"\b((wandering|shifting|migrating|multifocal|ectopic|competing|subsidiary|escape|latent|"
        r"junctional|nodal|sinus|idioventricular|atrial) ){1,3}pace-?maker\b(?<!paced)",
        None, 99, DENIED, DOUBTED,
    ),
    Rule(
        r"\b(\w+ )?(pace-?maker|pacing|pacer) (failure|malfunction|dysfunction)\b|"
        r"\bfailure to (pace|capture|sense)\b",
        None, 99, DENIED, DOUBTED,
    ),
)  # fmt: skip
"""What names a rhythm. A pattern inside a longer one that matches does not count."""

ALTERNATIVE = r"(and/or|or|versus)"
"""Between two rhythms: neither is sure."""
BARE = r"(atrial )?(fib|flut|sinus|junction|nodal|ectopic|tachy|brady|paced|svt)\w*"
"""What may stand beside a slash as the other of two rhythms."""
LISTS = r"consider|rule out|r/o|cannot|differential|exclud"
"""Doubt that goes on over commas: consider A, B."""
COMPARED = (
    r"\bcompar\w+ (with|to)\b|\bin comparison\b|\bsince (the )?(previous|prior|last|old|ecg|ekg|"
    r"tracing)|\b(previous|prior|last|old|earlier) (ecg|ekg|tracing|study|record)\w*\b"
)
"""A look back at another recording; after it only what is said to be new counts."""
NEW_BEFORE = r"\b(new|now|newly|new onset|is now in|replaced by|(changed|converted) to) $"
NEW_AFTER = r"^\W*((is|are) )?((now|newly) |new\b|(has|have) (replaced|developed|appeared)\b)"
CONTINUES = (
    r"^\W*((and/or|or|versus)\b|(is|are|was|has|have) |no longer\b|cannot be\b|replaced by\b)"
)
"""A line that starts so goes on with the line before it."""
UNSURE_REPORT = (
    r"\bif (the )?rhythm is (confirmed|correct)|\brhythm (is |remains )?(not confirmed|"
    r"unconfirmed|uncertain|in doubt|questionable)\b|"
    r"\b(unable to|cannot) (determine|confirm|identify) (the )?rhythm\b"
)
"""A line that puts the rhythm of its whole report in doubt."""
