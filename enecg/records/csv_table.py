"""Reading a CSV table as people's files are: every cell as text, exactly as it is written."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from enecg.errors import UserError, one_line
from enecg.label_text import visible
from enecg.storage import Place, open_file

_DELIMITERS = (",", ";", "\t", "|")
_SEPARATOR_LINE = re.compile(rb'\A"?sep=."?[ \t]*\r?\n')
"""What Excel writes, and hides, in front of a table."""
_WIDE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_LONGEST_CELL = 1 << 24
_SPECIAL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


def read_csv(path: Place, required: Iterable[str], text: Iterable[str] = ()) -> pd.DataFrame:
    """Read a CSV table, at a path or URI, with every cell as text.

    The header's names and all cells lose the blanks around them; an empty cell is missing, and
    nothing else is: ``NA``, ``None`` and ``nan`` are text. Columns may be separated by commas,
    semicolons or tabs. Rows may end with a comma too many. Empty rows are left out.

    Parameters
    ----------
    path : path or URI
    required : iterable of str
        Columns that must be there.
    text : iterable of str
        Not needed: every column is text. Sources written for earlier versions give it.

    Returns
    -------
    DataFrame
        Columns of str, NaN where a cell is empty. ``attrs["lines"]`` holds the line of the file
        that each row stands in, where it is not its number plus 2.

    Raises
    ------
    UserError
        No such file, another encoding than UTF-8, a column that is missing or there twice, a row
        with more or fewer cells than the header.
    """
    required = list(required)
    try:
        with open_file(path) as file:
            content = file.read()
    except OSError as error:
        raise UserError(f"{path}: {one_line(error)}") from None
    body = _SEPARATOR_LINE.sub(b"\n", _utf8(content, path), count=1)
    delimiter, names, header_lines = _header(body, required, path)
    table = _fast(body, delimiter, names, header_lines)
    lines = None
    if table is None:
        table, lines = _slow(body, delimiter, names, path)
    table = _without_blanks(table)
    frame = table.to_pandas().astype(object)
    # NaN, not None: so text may be joined column by column.
    frame = _named(frame.where(frame.notna(), np.nan), path)
    empty = frame.isna().all(axis=1).to_numpy()
    whole = body.rstrip(b"\n").count(b"\n") == len(frame)
    frame = frame[~empty].reset_index(drop=True)
    if lines is None and (empty.any() or not whole):  # empty lines, or cells of several lines
        lines = [line for line, _ in _rows(body, delimiter, path)][1:]
    if lines is not None:
        frame.attrs["lines"] = lines
    missing = [name for name in required if name not in frame.columns]
    if missing:
        raise UserError(
            f"{path}: no column {', '.join(missing)}; it has: {', '.join(map(str, frame.columns))}"
        )
    return frame


def line_of(table: pd.DataFrame, row: int) -> int:
    """Return the line of the file that a row (0 to N − 1) of `read_csv`'s table stands in."""
    lines = table.attrs.get("lines")
    return int(lines[row]) if lines is not None else row + 2


def _utf8(content: bytes, path: Place) -> bytes:
    """Return a file's content without a byte-order mark, if it is text in UTF-8."""
    encoding = _WIDE.get(content[:2])
    if encoding is None and b"\0" in content:
        encoding = "no text, or UTF-16"
    if content[:4] == b"PK\x03\x04":
        encoding = "a spreadsheet or an archive"
    if content[:2] == b"\x1f\x8b":
        encoding = "compressed"
    if encoding:
        raise UserError(f"{path}: is {encoding}; save it as a CSV table in UTF-8")
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") or before.count(b"\r")
        shown = content[error.start - min(12, error.start) : error.start + 12]
        raise UserError(
            f"{path}, line {line + 1}: not UTF-8 at {shown.decode('latin-1')!r} (Latin-1 or "
            "Windows-1252?); save the table in UTF-8"
        ) from None
    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")  # old Macintosh files
    return content


def _header(body: bytes, required: list[str], path: Place) -> tuple[str, list[str], int]:
    """Return the delimiter, the header's names, and how many lines the header takes."""
    start = re.match(rb"(?:[ \t]*\r?\n)*", body)
    blank = start[0].count(b"\n") if start else 0
    text = body[start.end() if start else 0 :][:_LONGEST_CELL].decode("utf-8", "ignore")
    if not text.strip():
        raise UserError(f"{path}: not a CSV table: the file is empty")
    candidates = []
    for delimiter in _DELIMITERS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            names = [visible(name) for name in next(reader)]
        except csv.Error as error:
            raise UserError(f"{path}, line {blank + 1}: not a CSV table: {error}") from None
        candidates.append((delimiter, names, blank + reader.line_num))
    # The comma, unless another one is needed to find the columns, or makes more of them.
    holds = [c for c in candidates if set(required) <= set(c[1])]
    best = max(holds or candidates, key=lambda candidate: len(candidate[1]))
    if holds and candidates[0] in holds and len(best[1]) == len(candidates[0][1]):
        best = candidates[0]
    if not holds and len(candidates[0][1]) > 1:
        best = candidates[0]
    delimiter, names, n_lines = best
    while len(names) > 1 and not names[-1]:
        names.pop()  # a comma too many at the end
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: column {', '.join(twice)} is there more than once; rename one")
    return delimiter, names, n_lines


def _fast(body: bytes, delimiter: str, names: list[str], header_lines: int) -> pa.Table | None:
    """Read a table whose rows all have as many cells as the header; None where they have not."""
    options = pyarrow.csv.ConvertOptions(
        column_types={name: pa.string() for name in _unique(names)},
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
    )
    try:
        return pyarrow.csv.read_csv(
            pa.BufferReader(body),
            pyarrow.csv.ReadOptions(
                column_names=_unique(names), skip_rows=header_lines, block_size=1 << 24
            ),
            pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=False
            ),
            options,
        )
    except pa.ArrowInvalid:
        return None


def _unique(names: list[str]) -> list[str]:
    """Return names for columns without one too; they are looked at in `_named`."""
    return [name or f"\0{place}" for place, name in enumerate(names)]


def _rows(body: bytes, delimiter: str, path: Place) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not empty, with the line that it ends in."""
    text = io.TextIOWrapper(io.BytesIO(body), encoding="utf-8", newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    csv.field_size_limit(_LONGEST_CELL)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not a CSV table: {error}") from None


def _slow(body: bytes, delimiter: str, names: list[str], path: Place) -> tuple[pa.Table, list[int]]:
    """Read a table row by row; rows may have empty cells too many at their end."""
    rows = _rows(body, delimiter, path)
    next(rows, None)
    columns: list[list[str]] = [[] for _ in names]
    lines = []
    for line, row in rows:
        while len(row) > len(names) and not row[-1].strip():
            row.pop()
        if len(row) != len(names):
            raise UserError(
                f"{path}, line {line}: {len(row)} cells, the header has {len(names)} columns "
                f"(separated by {delimiter!r}); put text that holds the separator in quotes"
            )
        for column, cell in zip(columns, row, strict=True):
            column.append(cell)
        lines.append(line)
    arrays = [pa.array(column, pa.string()) for column in columns]
    return pa.table(arrays, names=_unique(names)), lines


def _without_blanks(table: pa.Table) -> pa.Table:
    """Strip every cell; what is then empty is missing."""
    columns = []
    for column in table.columns:
        stripped = pc.utf8_trim_whitespace(column)
        empty = pc.equal(stripped, "")
        columns.append(pc.if_else(empty, pa.scalar(None, pa.string()), stripped))
    return pa.table(columns, names=table.column_names)


def _named(frame: pd.DataFrame, path: Place) -> pd.DataFrame:
    """Drop empty columns without a name; refuse those that hold something.

    The first may lack one: tables that pandas writes have their row numbers there.
    """
    nameless = [name for name in frame.columns if str(name).startswith("\0")]
    for name in nameless:
        if name != "\x000" and frame[name].notna().any():
            row = int(frame[name].notna().to_numpy().argmax())
            raise UserError(
                f"{path}: column {int(str(name)[1:]) + 1} has no name but values, such as "
                f"{frame[name].iloc[row]!r}"
            )
    # pandas' row numbers, perhaps of a table that it had read and written before.
    dropped = [name for name in nameless if name != "\x000" or "Unnamed: 0" in frame.columns]
    return frame.drop(columns=dropped).rename(columns={"\x000": "Unnamed: 0"})
