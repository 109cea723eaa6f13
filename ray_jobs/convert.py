"""Convert a corpus of WFDB records into a record store."""

from __future__ import annotations

from enecg import interrupts

if __name__ == "__main__":
    interrupts.install()  # first: a signal may come while the rest is loaded

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from enecg.command_line import AddressOption, run
from enecg.errors import UserError, exit_code_of
from enecg.printable import printable
from enecg.records.options import MAX_REJECTED, SEED, layouts

if TYPE_CHECKING:
    from enecg.records.store import RecordStore

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
LAYOUTS = "; ".join(f"{name}: {summary}" for name, summary in layouts().items())


@app.command()
def main(
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"How the corpus is laid out. {LAYOUTS}.")
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="The corpus: a folder, or a URI such as s3://bucket/ecgs."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="The record store: a folder or a URI. An unfinished store made with the same "
            "arguments is gone on with.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Labels. For wfdb: a CSV with record_id (the header's name without .hea), perhaps "
            "subject_id, and any label or metadata columns. For mimic-iv-ecg: the same with "
            "study_id. For ptb-xl and code-15: a table to use instead of the corpus's own. For "
            "enecg: the manifest. For challenge: none, labels stand in the headers.",
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
        float | None,
        typer.Option(
            metavar="SHARE",
            help="With a larger share of rejected records the exit code is 1; the store is "
            f"complete all the same.  [default: {MAX_REJECTED}]",
        ),
    ] = None,
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
    verify_store: Annotated[
        str | None,
        typer.Option(
            "--verify",
            metavar="STORE",
            help="Only compare every file of a finished store with its hash; exit code 1 if one "
            "is damaged or missing.",
        ),
    ] = None,
    describe_store: Annotated[
        str | None,
        typer.Option("--describe", metavar="STORE", help="Only say what is in a finished store."),
    ] = None,
    lead_names: Annotated[
        Path | None,
        typer.Option(
            "--lead-names",
            metavar="FILE",
            help="Names of leads that your files have and EnECG does not know: YAML lines such as "
            "'E1: V1', '-' in front of a lead that is turned over, 'none' for a signal to leave "
            "out (see docs/tables.md).",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", help=f"Decides which record stands in which shard.  [default: {SEED}]"
        ),
    ] = None,
    address: AddressOption = None,
) -> None:
    """Convert a corpus of WFDB records into a record store (see "Record store" in the README).

    Exit code: 0 done; 2 a mistake in the arguments or the labels; 1 anything else.
    """

    given = {
        "--source": source, "--input": input, "--output": output, "--labels": labels,
        "--workers": workers, "--limit": limit, "--max-rejected": max_rejected,
        "--overwrite": overwrite or None, "--lead-names": lead_names, "--seed": seed,
        "--relabel": new_labels or None, "--verify": verify_store, "--describe": describe_store,
    }  # fmt: skip

    def job() -> int:
        from enecg.records.convert import convert  # heavy: not for --help
        from enecg.records.describe import describe
        from enecg.records.leads import read_lead_names
        from enecg.records.relabel import relabel
        from enecg.records.store import RecordStore
        from enecg.records.verify import verdict_text, verify

        if verify_store is not None:
            _allow(given, "--verify", {"--verify"})
            verdict = verify(verify_store)
            print(verdict_text(verify_store, verdict))
            return 0 if verdict.sound else 1
        if describe_store is not None:
            _allow(given, "--describe", {"--describe"})
            print(describe(RecordStore.open(describe_store)))
            return 0
        if source is None or input is None or output is None:
            lacking = [name for name in ("--source", "--input", "--output") if given[name] is None]
            raise UserError(f"missing option {', '.join(lacking)} (see --help)")
        if new_labels:
            _allow(given, "--relabel", {"--relabel", "--source", "--input", "--output", "--labels"})
            interrupts.keeps(f"the labels in {output} are whole, old or new")
            store = relabel(source, input, output, labels)
        else:
            again = "run the same command again"
            interrupts.keeps(
                f"finished shards in {output} are kept",
                f"{again}, without --overwrite" if overwrite else again,
            )
            store = convert(
                source, input, output, labels, workers, limit,
                MAX_REJECTED if max_rejected is None else max_rejected, overwrite,
                SEED if seed is None else seed,
                None if lead_names is None else read_lead_names(lead_names),
            )  # fmt: skip
        print(summary(store))
        return 0

    sys.exit(exit_code_of(job))


def _allow(given: Mapping[str, object], option: str, beside: Collection[str]) -> None:
    """Refuse options that mean nothing beside another."""
    if strange := [
        name for name, value in given.items() if value is not None and name not in beside
    ]:
        raise UserError(f"{option} does not go with {', '.join(strange)}")


def summary(store: RecordStore) -> str:
    """Say in a few lines what became of the records."""
    from enecg.label_text import with_counts
    from enecg.records.describe import unread_lines
    from enecg.records.store import REJECTED
    from enecg.records.subjects import subjects_note

    counts = store.description["counts"]
    lines = [
        f"{counts['accepted']:,} of {counts['listed']:,} records accepted "
        f"({counts['subjects']:,} subjects, {counts['groups']:,} groups), "
        f"{counts['rejected']:,} rejected"
    ]
    if note := subjects_note(store.description):
        lines.append(f"  {note}")
    lines += [f"  {count:,} {reason}" for reason, count in counts["rejected_by_reason"].items()]
    if counts["rejected"]:
        lines.append(f"  one by one in {store.folder.uri_of(REJECTED)}")
    for name, label in store.description["labels"].items():
        impossible = label["made_missing_as_impossible"]
        note = f", of which {impossible:,} had an impossible value" if impossible else ""
        lines.append(
            f"  label {name}: {label['present']:,} present, {label['missing']:,} missing{note}"
        )
        lines += [f"    {said}" for said in unread_lines(label)]
    for name, column in store.description.get("unreadable_numbers", {}).items():
        lines.append(
            f"  column {name}: {column['numbers']:,} numbers; {column['count']:,} values are no "
            "number, and missing for a regression: "
            f"{with_counts(column['values'], column['count'])}"
        )
    for name, found in store.description.get("not_measured", {}).items():
        lines.append(
            f"  column {name}: {with_counts(found)} stand for 'not measured' and are missing"
        )
    if left_out := store.description.get("signals_left_out"):
        lines.append(
            f"  signals left out, by name and number of records: {with_counts(left_out, most=10)}"
            "; --lead-names says which of them are leads"
        )
    lines.append(f"record store: {store.uri}")
    return "\n".join(map(printable, lines))


if __name__ == "__main__":
    run(app)
