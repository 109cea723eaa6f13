"""What the options of convert.py offer and mean by default, known without a heavy import."""

from __future__ import annotations

import ast
from pathlib import Path

MAX_REJECTED, SEED = 0.05, 42


def layouts() -> dict[str, str]:
    """Map the name of every corpus layout to its summary, in alphabetical order.

    They are the first two arguments of ``SOURCE = Source(…)`` in each file of
    ``enecg/records/sources``: read there, since running these files would load half of the
    program for a page of help.
    """
    found: dict[str, str] = {}
    for file in (Path(__file__).parent / "sources").glob("*.py"):
        for statement in ast.parse(file.read_text(encoding="utf-8")).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id="SOURCE")], value=ast.Call(args=arguments)):
                    name, summary = map(ast.literal_eval, arguments[:2])
                    found[name] = summary
    return dict(sorted(found.items()))
