"""What is in a record store, in a page of text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from enecg.label_text import with_counts
from enecg.printable import printable
from enecg.records.store import RecordStore
from enecg.signals import LEADS

_WIDEST_BAR = 24
_MOST_CLASSES = 20


def describe(store: RecordStore) -> str:
    """Return counts, labels, leads, changes, duplicates, rejects and size, to be read by people."""
    counts, index = store.description["counts"], store.index
    n = len(index)
    source = store.description["source"]
    made = f"made by enecg {store.description['enecg']} from {source}"
    parts = [
        f"record store {printable(store.uri)}\n{printable(made)}",
        _section(
            "records",
            [
                ("listed", _number(counts["listed"])),
                ("accepted", _share(n, counts["listed"])),
                ("rejected", _share(counts["rejected"], counts["listed"])),
                *_counted(counts["rejected_by_reason"], counts["listed"], indent="  "),
                ("subjects", _number(counts["subjects"])),
                *_without_subject(counts),
                ("groups", _number(counts["groups"])),
                *_duplicates(index),
                *_size(store),
            ],
        ),
    ]
    if n:
        parts += [
            _section("original sampling rate", _rates(index)),
            _section("changed on the way in", _changes(index, counts["changed"])),
            _section("leads that are not original", _leads(index)),
        ]
    parts += [_label(name, about, n) for name, about in store.description["labels"].items()]
    parts += [_section("numbers that cannot be read", _unreadable(store.description))]
    parts += [_section("not measured, so missing", _not_measured(store.description))]
    parts += [_section("signals left out", _left_out(store.description))]
    if metadata := store.description["metadata"]:
        parts.append("metadata: " + ", ".join(map(printable, metadata)))
    return "\n\n".join(part for part in parts if part)


def _without_subject(counts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return how many records have no subject; nothing for a store that does not know."""
    count = counts.get("without_subject", 0)
    return [("without a subject", f"{_number(count)}  records; folds by record")] if count else []


def _section(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Return a heading with names and values in two columns; nothing where there are no rows."""
    rows = [(printable(name), printable(value)) for name, value in rows]
    width = max((len(name) for name, _ in rows), default=0)
    lines = [f"  {name:<{width}}  {value}".rstrip() for name, value in rows]
    return "\n".join([printable(title), *lines]) if rows else ""


def _number(count: float) -> str:
    return f"{count:>11,}"


def _share(count: int, of: int) -> str:
    return f"{_number(count)}  {count / max(of, 1):6.1%}"


def _counted(counts: dict[str, int], of: int, indent: str = "") -> list[tuple[str, str]]:
    """Return counts, largest first, with their share; bars where there are several."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    rows = []
    for name, count in ordered[:_MOST_CLASSES]:
        bar = "█" * round(_WIDEST_BAR * count / max(of, 1)) if not indent else ""
        rows.append((indent + name, f"{_share(count, of)}  {bar}"))
    if len(ordered) > _MOST_CLASSES:
        rest = sum(count for _, count in ordered[_MOST_CLASSES:])
        rows.append((f"{indent}{len(ordered) - _MOST_CLASSES} more", _number(rest)))
    return rows


def _duplicates(index: pd.DataFrame) -> list[tuple[str, str]]:
    again = index["signal_sha256"].duplicated(keep=False)
    signals = index.loc[again, "signal_sha256"].nunique()
    subjects = index.groupby("group_id")["subject_id"].nunique()
    return [
        ("identical signals", f"{_number(int(again.sum()))}  records, {signals:,} signals"),
        ("groups of several subjects", _number(int((subjects > 1).sum()))),
    ]


def _size(store: RecordStore) -> list[tuple[str, str]]:
    sizes = store.folder.sizes()
    signals = sum(sizes.get(name, 0) for name in store.shards)
    total = sum(sizes.values())
    each = f", {signals / len(store.index) / 1e3:,.1f} kB of signal a record" if signals else ""
    return [("size", f"{_number(round(total / 1e6, 1))}  MB in {len(sizes):,} files{each}")]


def _rates(index: pd.DataFrame) -> list[tuple[str, str]]:
    counts = index["sampling_rate_hz"].value_counts()
    return _counted({f"{rate:g} Hz": int(count) for rate, count in counts.items()}, len(index))


def _changes(index: pd.DataFrame, counts: dict[str, int]) -> list[tuple[str, str]]:
    untouched = int((index["changed"].map(len) == 0).sum())
    return [
        *_counted({"nothing (bit for bit)": untouched}, len(index)),
        *_counted(counts, len(index)),
        *_largest_error(index),
    ]


def _largest_error(index: pd.DataFrame) -> list[tuple[str, str]]:
    if "requantisation_error_uv" not in index or index["requantisation_error_uv"].isna().all():
        return []
    return [("largest rounding error", f"{index['requantisation_error_uv'].max():>11.3g}  µV")]


def _leads(index: pd.DataFrame) -> list[tuple[str, str]]:
    present_NL, derived_NL = (
        np.stack(index[name].to_list()).astype(bool) for name in ("lead_present", "lead_derived")
    )
    rows = []
    for place, lead in enumerate(LEADS):
        derived = int(derived_NL[:, place].sum())
        missing = int((~present_NL[:, place] & ~derived_NL[:, place]).sum())
        if missing or derived:
            rows.append((lead, f"{_share(missing, len(index))} missing {_number(derived)} derived"))
    return rows or [("none", "")]


def _unreadable(description: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, f"{_number(column['count'])}  such as {column['example'][:60]!r}")
        for name, column in description.get("unreadable_numbers", {}).items()
    ]


def _not_measured(description: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, f"{_number(sum(found.values()))}  {with_counts(found)}")
        for name, found in description.get("not_measured", {}).items()
    ]


def _left_out(description: dict[str, Any]) -> list[tuple[str, str]]:
    counts: dict[str, int] = description.get("signals_left_out", {})
    shown = {repr(name): count for name, count in counts.items()}
    return _counted(shown, sum(counts.values()), indent="  ")


def unread_lines(label: dict[str, Any]) -> list[str]:
    """Return a line for each kind of value that a label column has and could not be used."""
    kinds = {
        "unreadable": "cannot be read",
        "out_of_range": "outside of the valid range",
        "undeclared": "of no declared class",
    }
    return [
        f"{found['count']:,} {words}: {with_counts(found['values'], found['count'])}"
        for kind, words in kinds.items()
        if (found := label.get(kind))
    ]


def _label(name: str, about: dict[str, Any], n: int) -> str:
    rows = [("present", _share(about["present"], n)), ("missing", _share(about["missing"], n))]
    if impossible := about["made_missing_as_impossible"]:
        rows.append(("  of which impossible", _number(impossible)))
        rows += [("    " + line, "") for line in unread_lines(about)]
    if "classes" in about:
        if "none_holds" in about:
            rows.append(("none holds", _share(about["none_holds"], about["present"])))
        rows += _counted(about["classes"], about["present"])
    elif "mean" in about:
        rows += [
            (which, f"{about[which]:>11,.1f}  {about['unit']}")
            for which in ("min", "median", "max", "mean", "std")
        ]
    return _section(f"label {name}", rows)
