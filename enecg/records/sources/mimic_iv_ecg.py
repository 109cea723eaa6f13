"""MIMIC-IV-ECG as PhysioNet publishes it (https://physionet.org/content/mimic-iv-ecg/)."""

from __future__ import annotations

import pandas as pd

from enecg.label_text import numbers_of, with_counts
from enecg.records.corpus import Corpus
from enecg.records.label_table import with_identifiers, with_labels
from enecg.records.sources.listing import (
    Listing,
    Source,
    listing_from,
    notes_on_sentinels,
    read_csv,
    without_sentinels,
)
from enecg.records.sources.report_lines import (
    reports_without_a_sure_rhythm,
    rhythms_of_reports,
)
from enecg.storage import Place

TABLE, MEASUREMENTS = "record_list.csv", "machine_measurements.csv"
_LISTED = ("subject_id", "study_id", "file_name", "ecg_time", "path")
_MEASURED = (
    "rr_interval", "p_onset", "p_end", "qrs_onset", "qrs_end", "t_end", "p_axis", "qrs_axis",
    "t_axis",
)  # fmt: skip
_REPORT_LINES = 18


def list_records(corpus: Corpus, labels: Place | None) -> Listing:
    """List the records of ``record_list.csv``, with the machine's measurements and rhythm.

    Parameters
    ----------
    corpus : Corpus
        Holds ``record_list.csv``, ``files/``, and perhaps ``machine_measurements.csv``.
    labels : path or URI, or None
        A CSV table keyed by ``study_id``: age, gender, flag, whatever there is; its columns take
        the place of the machine's.

    Raises
    ------
    UserError
        A table is not there, or lacks a column.
    """
    path = corpus.uri_of(TABLE)
    table = with_identifiers(read_csv(path, _LISTED), ("study_id", "subject_id"), path)
    listed = table.rename(columns={"study_id": "record_id"})[
        ["record_id", "subject_id", "path", "ecg_time"]
    ]
    # The table writes paths with the header's name, some copies with its ending.
    listed["path"] = listed["path"].str.replace(r"\.hea$", "", case=False, regex=True)
    notes: list[str] = []
    not_measured: dict[str, dict[str, int]] = {}
    if corpus.exists(MEASUREMENTS):
        measured, not_measured, notes = _measurements(corpus)
        listed = listed.merge(measured, on="record_id", how="left", sort=False)
    else:
        notes.append(f"{corpus.uri}: no {MEASUREMENTS}, so no rr_interval and no report_label")
    if labels is not None:
        listed, more = with_labels(listed, labels, "study_id", corpus)
        listed, in_labels = without_sentinels(listed)
        notes += [*more, *notes_on_sentinels(in_labels, labels)]
        not_measured = {**not_measured, **in_labels}
    return listing_from(listed, path, notes, ("ecg_time", "report"), not_measured)


def _measurements(corpus: Corpus) -> tuple[pd.DataFrame, dict[str, dict[str, int]], list[str]]:
    """Return a row per study: intervals (ms), axes (degrees), rhythm, and the report's text.

    With counts of what was not measured, and notes: on that, on what cannot be read, on reports
    that name no rhythm for sure, and on studies with several rows, of which the first one counts.
    """
    lines = [f"report_{number}" for number in range(_REPORT_LINES)]
    place = corpus.uri_of(MEASUREMENTS)
    table = read_csv(place, ("study_id", *_MEASURED, lines[0]))
    table = with_identifiers(table, ("study_id",), place)
    notes = []
    again = table["study_id"].duplicated()
    if again.any():
        notes.append(
            f"{place}: {int(again.sum()):,} rows are of a study that has a row already, such as "
            f"{table.loc[again, 'study_id'].iloc[0]!r}; the first one counts"
        )
        table = table[~again]
    lines = [name for name in lines if name in table]
    report = table[lines[0]].fillna("")
    for name in lines[1:]:
        report += ("\n" + table[name]).fillna("")
    measured = table[["study_id"]].rename(columns={"study_id": "record_id"})
    for name in _MEASURED:
        numbers, unreadable = numbers_of(table[name])
        measured[name] = numbers
        if unreadable:
            notes.append(f"{place}: {name}: no number: {with_counts(unreadable)}; missing")
    if unsure := reports_without_a_sure_rhythm(table[lines]):
        notes.append(
            f"{unsure:,} reports name a rhythm only in doubt or denial, so no report_label"
        )
    measured, not_measured = without_sentinels(measured)
    notes += notes_on_sentinels(not_measured, place)
    measured = measured.assign(
        report_label=rhythms_of_reports(table[lines]), report=report.where(report != "", None)
    )
    return measured, not_measured, notes


SOURCE = Source(
    "mimic-iv-ecg",
    "the PhysioNet folder with record_list.csv, with --labels FILE.csv keyed by study_id for age, "
    "gender, flag",
    list_records,
)
