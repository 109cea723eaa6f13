"""Draw a record of a record store as an ECG on paper."""

from __future__ import annotations

from enecg import interrupts

if __name__ == "__main__":
    interrupts.install()  # first: a signal may come while the rest is loaded

import sys
from pathlib import Path
from typing import Annotated

import typer

from enecg.command_line import run
from enecg.errors import UserError, exit_code_of, file_trouble, one_line
from enecg.printable import printable

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
FORMATS = (".png", ".pdf", ".svg")


@app.command()
def main(
    records: Annotated[
        str, typer.Option(metavar="STORE", help="A record store: a folder or a URI.")
    ],
    record: Annotated[str, typer.Option(metavar="ID", help="The record's record_id.")],
    output: Annotated[
        Path, typer.Option(metavar="FILE", help="A .png, .pdf or .svg file; true to scale.")
    ],
) -> None:
    """Draw one ECG: three rows of four leads above lead II, 25 mm/s, 10 mm/mV.

    Missing and derived leads are marked. The title is the record's id, nothing of its labels.
    """

    def job() -> None:
        from enecg.evaluation.paper import draw_ecg  # heavy: not for --help
        from enecg.files import replacing
        from enecg.output_file import holds_drawing, output_file
        from enecg.records.store import RecordStore
        from enecg.signals import LEADS

        path = output_file(output, FORMATS, holds_drawing, "drawing")
        store = RecordStore.open(records)
        [(_, x_BLT)] = store.signals([record])
        [derived_L] = store.index.loc[store.index["record_id"] == record, "lead_derived"]
        derived = [lead for lead, is_derived in zip(LEADS, derived_L, strict=True) if is_derived]
        try:
            with replacing(path) as temporary:
                draw_ecg(x_BLT[0], temporary, record, derived, path.suffix[1:].lower())
        except OSError as error:
            if file_trouble(error):
                raise
            raise UserError(f"--output {path}: {one_line(error)}") from None
        print(printable(f"record {record}: {path}"))

    sys.exit(exit_code_of(job))


if __name__ == "__main__":
    run(app)
