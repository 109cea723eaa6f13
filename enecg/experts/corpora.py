"""The corpora that weights are pretrained on, in one vocabulary, and which data share records.

A score on records that shaped the weights flatters the expert. So every expert names its corpora
with the names below, every record store names its source with the same ones, and the two are
compared here.
"""

from __future__ import annotations

from collections.abc import Iterable

CORPORA: dict[str, str] = {
    "ptb-xl": "PTB-XL",
    "ptb": "PTB diagnostic ECG database",
    "chapman-shaoxing": "Chapman-Shaoxing 12-lead ECG",
    "ningbo": "Ningbo 12-lead ECG",
    "georgia": "Georgia 12-lead ECG challenge database",
    "cpsc-2018": "China Physiological Signal Challenge 2018, and its extra records",
    "st-petersburg": "St Petersburg INCART 12-lead arrhythmia database",
    "challenge": "PhysioNet/CinC Challenges 2020 and 2021",
    "mimic-iv-ecg": "MIMIC-IV-ECG",
    "code-15": "CODE-15%",
    "ludb": "Lobachevsky University Database",
    "qtdb": "QT Database",
    "isp": "ISP Delineation Dataset",
    "heedb": "Harvard-Emory ECG Database",
    # The small ECG sets in UCR, UEA and TSB-UAD are, as far as known, other recordings than above.
    "time-series-pile": "Time-series Pile (MOMENT): forecasting, UCR/UEA and anomaly archives",
    "forecasting": "long-horizon forecasting sets (ETT, Weather, Electricity, Traffic)",
    "mantis-corpus": "Mantis's public archives (UCR, UEA, …); MantisPlus, V2: synthetic series",
    "chronos-corpus": "Chronos pretraining sets and synthetic series; none of them ECGs",
}
"""What each name stands for."""

PARTS: dict[str, tuple[str, ...]] = {
    "challenge": (
        "ptb-xl", "ptb", "chapman-shaoxing", "ningbo", "georgia", "cpsc-2018", "st-petersburg",
    ),
    "enecg": ("mimic-iv-ecg",),
}  # fmt: skip
"""Corpora, and sources of records, that are made up of others."""


def overlap(pretrained_on: Iterable[str], source: str) -> tuple[str, ...]:
    """Return those corpora of an expert that share records with a record store.

    Parameters
    ----------
    pretrained_on : iterable of str
        Names from `CORPORA`.
    source : str
        The store's source. One that is no corpus, such as a plain folder of WFDB files, overlaps
        with nothing that can be known.

    Returns
    -------
    tuple of str
        In the order given.
    """
    wanted = {source, *PARTS.get(source, ())}
    return tuple(name for name in pretrained_on if wanted & {name, *PARTS.get(name, ())})
