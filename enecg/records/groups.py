"""Which records must never be split between training and test."""

from __future__ import annotations

from collections.abc import Sequence


def group_ids(subject_ids: Sequence[str], signal_sha256s: Sequence[str]) -> list[str]:
    """Join all records of a subject and all records with an identical signal, transitively.

    Parameters
    ----------
    subject_ids : sequence of str, length N
        Whose record it is.
    signal_sha256s : sequence of str, length N
        What the record's samples are.

    Returns
    -------
    list of str, length N
        For each record the smallest subject in its group: the same name whatever the order of
        the records.
    """
    # Subjects are joined, not records: whoever first showed a signal stands for it.
    parent = {subject: subject for subject in subject_ids}

    def root(subject: str) -> str:
        while parent[subject] != subject:
            parent[subject] = parent[parent[subject]]  # halves the way for the next search
            subject = parent[subject]
        return subject

    first_with: dict[str, str] = {}
    for subject, signal in zip(subject_ids, signal_sha256s, strict=True):
        here, there = root(subject), root(first_with.setdefault(signal, subject))
        # The smaller name stays the root, so a root is its group's name.
        parent[max(here, there)] = min(here, there)
    return [root(subject) for subject in subject_ids]
