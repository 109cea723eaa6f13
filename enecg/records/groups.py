"""Which records must never be split between training and test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Names = Sequence[str] | npt.NDArray[np.object_]


def group_ids(subject_ids: Names, signal_sha256s: Names) -> list[str]:
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
    if not len(subject_ids):
        return []
    # Subjects and signals are the nodes of a graph, records its edges.
    subject_N, subjects = pd.factorize(np.asarray(subject_ids, dtype=object), sort=True)
    signal_N, signals = pd.factorize(np.asarray(signal_sha256s, dtype=object))
    nodes = len(subjects) + len(signals)
    edges = coo_array(
        (np.ones(len(subject_N), dtype=bool), (subject_N, len(subjects) + signal_N)),
        shape=(nodes, nodes),
    )
    _, group_of = connected_components(edges, directed=False)
    # Subjects are sorted, so the first one that shows a group is its smallest. Every group has one.
    _, smallest = np.unique(group_of[: len(subjects)], return_index=True)
    names: list[str] = subjects[smallest][group_of[subject_N]].tolist()
    return names
