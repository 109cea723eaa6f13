"""Convert a corpus of WFDB records into a record store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from enecg.command_line import run
from enecg.errors import UserError, exit_code_of
from enecg.records import sources
from enecg.records.convert import convert
from enecg.records.relabel import relabel
from enecg.records.store import REJECTED, RecordStore

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
LAYOUTS = "; ".join(f"{source.name}: {source.summary}" for source in sources.SOURCES.values())


@app.command()
def main(
    source: Annotated[
        str, typer.Option(metavar="NAME", help=f"How the corpus is laid out. {LAYOUTS}.")
    ],
    input: Annotated[Path, typer.Option(metavar="PATH", help="The corpus's folder.")],
    output: Annotated[
        Path,
        typer.Option(
            metavar="STORE",
            help="The record store's folder. An unfinished store made with the same arguments is "
            "gone on with.",
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV of labels. For wfdb: column record_id (the header's name without .hea), "
            "perhaps subject_id, and any label or metadata columns. For ptb-xl: a table to use "
            "instead of ptbxl_database.csv.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="One-CPU tasks at a time.  [default: the CPUs of the cluster]",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="Only the first N records in listing order."),
    ] = None,
    max_rejected: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="With a larger share of rejected records the exit code is 1; the store is "
            "complete all the same.",
        ),
    ] = 0.05,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace a store that is there; legal where nothing is there."
        ),
    ] = False,
    new_labels: Annotated[
        bool,
        typer.Option(
            "--relabel",
            help="Only replace the labels, metadata and subjects of a finished store; its signals "
            "stay as they are.",
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Decides which record stands in which shard.")
    ] = 42,
) -> None:
    """Convert a corpus of WFDB records into a record store (see "Record store" in the README).

    Exit code: 0 done; 2 a mistake in the arguments or the labels; 1 anything else.
    """

    def job() -> None:
        if new_labels and overwrite:
            raise UserError("--relabel and --overwrite exclude each other")
        if new_labels:
            store = relabel(source, input, output, labels)
        else:
            store = convert(
                source, input, output, labels, workers, limit, max_rejected, overwrite, seed
            )
        print(summary(store))

    sys.exit(exit_code_of(job))


def summary(store: RecordStore) -> str:
    """Say in a few lines what became of the records."""
    counts = store.description["counts"]
    lines = [
        f"{counts['accepted']:,} of {counts['listed']:,} records accepted "
        f"({counts['subjects']:,} subjects, {counts['groups']:,} groups), "
        f"{counts['rejected']:,} rejected"
    ]
    lines += [f"  {count:,} {reason}" for reason, count in counts["rejected_by_reason"].items()]
    if counts["rejected"]:
        lines.append(f"  one by one in {store.folder.uri_of(REJECTED)}")
    for name, label in store.description["labels"].items():
        impossible = label["made_missing_as_impossible"]
        note = f", of which {impossible:,} had an impossible value" if impossible else ""
        lines.append(
            f"  label {name}: {label['present']:,} present, {label['missing']:,} missing{note}"
        )
    lines.append(f"record store: {store.uri}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(app)
