"""Configs made to hurt: every key of every shipped config with every hurtful value.

Each ends as a config or as one printable line, in bounded time and memory, with nothing left
behind. Keys are found by looking: in the files, in the models, in the experts' signatures.
"""

from __future__ import annotations

import copy
import math
import os
import random
import resource
import signal
import time
import traceback
import typing
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import BaseModel

from enecg import experts
from enecg.config import Config, ExpertSettings, load_config
from enecg.errors import UserError
from enecg.experiment import check_experts
from enecg.experts.sizes import Sizes
from enecg.gate.space import Space
from enecg.spaces import Chance
from enecg.stage1.head_space import head_choices
from enecg.yaml_file import LARGEST_FILE, parse_yaml, read_yaml
from tests.small_experts import SMALL

REPOSITORY = Path(__file__).parents[1]
CONFIGS = sorted((REPOSITORY / "ray_jobs" / "config").glob("*.yaml"))
SPACES = {
    "gate": REPOSITORY / "tune_spaces/gate.yaml",
    "heads": REPOSITORY / "tune_spaces/heads.yaml",
}
SECONDS = 30
"""For one case, on a busy machine; most take milliseconds."""
MEMORY = 3 << 30
"""Bytes beyond what the process has at its start."""
LONGEST_LINE = 700

HURTFUL = [
    "null", "true", "no", "0", "-1", "1", "1e12", "100000000000", "1" + "0" * 30, "9" * 5000,
    ".nan", ".inf", "-.inf", "1e308", "1e-320", "-0.0", "1e400", "2024-13-45", "2024-01-01",
    "12:30:45", "0x7fffffffffffffff", "010", "''", "'\\0'", '"\\0"', '"\\ud800"', '"\\e[31m"',
    '"a\\nb"', "x" * 300, "x/" * 3000, "'../../etc'", "/dev/zero", "/dev/stdin", "/proc/self/mem",
    "[]", "{}", "[[]]", "[1, a, {b: c}]", "{1: x}", "{null: x}", "{[a]: x}", "{a: {b: {c: {}}}}",
    "[" * 40 + "]" * 40, "!!binary aGk=", "!!set {a, b}", "!!python/object/apply:os.getcwd []",
    "!!float x", "!!int x", "!!timestamp x", "{<<: 3}", "&a [*a]", "{a: 1, a: 2}",
    "{choose: []}", "{choose: {a: 1}}", "{choose: abc}", "{choose: [[], {}]}", "{uniform: [1]}",
    "{uniform: [.nan, 1]}", "{uniform: [-1e308, 1e308]}", "{log_uniform: [0, 1]}",
    "{uniform: {a: 1, b: 2}}", "{any: [1, .nan], of: all}", "{any: 1e30, of: 3}", "{any: 2, of: 3}",
    "{any: true, of: [[II]]}", "{any: {}, of: {}}", "{any: 'ab', of: all}",
]  # fmt: skip


def bounded(cases: Callable[[], Iterator[tuple[str, Callable[[], Any]]]]) -> int:
    """Try all cases in a child whose memory is limited; return how many there were.

    A case is its name and what to call: that may raise UserError, of one printable line, or end
    well. An endless one is interrupted after `SECONDS`.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = "died"
        try:
            os.close(read)
            held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
            signal.signal(signal.SIGALRM, _too_long)
            said = _tried(cases)
        except BaseException:
            said = traceback.format_exc()[-3000:]
        finally:
            os.write(write, said.encode("utf-8", "replace"))
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    assert said.isdecimal(), said
    return int(said)


def _too_long(*_: Any) -> None:
    raise TimeoutError


def _tried(cases: Callable[[], Iterator[tuple[str, Callable[[], Any]]]]) -> str:
    faults, count = [], 0
    for name, job in cases():
        count += 1
        signal.alarm(SECONDS)
        try:
            job()
        except UserError as error:
            line = str(error)
            if not line.isprintable() or len(line) > LONGEST_LINE:
                faults.append(f"{name[:150]}: {len(line)} characters: {line[:300]!r}")
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            faults.append(f"{name[:150]}: {error!r:.200} ({where.filename}:{where.lineno})")
        finally:
            signal.alarm(0)
    return "\n".join([f"{len(faults)} of {count}:", *faults[:40]])[:20000] if faults else str(count)


def set_to(values: Any, key: tuple[Any, ...], marker: Any) -> Any:
    """A copy of nested data in which one place holds something else."""
    changed = copy.deepcopy(values)
    inside = changed
    for part in key[:-1]:
        if isinstance(inside, dict) and not isinstance(inside.get(part), dict | list):
            inside[part] = {}
        inside = inside[part]
    inside[key[-1]] = marker
    return changed


MARKER = "THE_HURTFUL_VALUE"


def texts(
    values: Any, keys: list[tuple[Any, ...]], hurtful_values: list[str] = HURTFUL
) -> Iterator[tuple[str, str]]:
    """YAML in which each key in turn holds each hurtful value, and a name for each."""
    for key in keys:
        text = yaml.safe_dump(set_to(values, key, MARKER), sort_keys=False, width=10**6)
        for hurtful in hurtful_values:
            yield f"{'.'.join(map(str, key))}: {hurtful[:60]}", text.replace(MARKER, hurtful)


def keys_of(values: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested data; of a list, the first one stands for all."""
    inside = values.items() if isinstance(values, dict) else list(enumerate(values))[:1]
    for key, value in inside:
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from keys_of(value, (*above, key))


def fields_of(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every field of a model and of the models in it."""
    for name, field in model.model_fields.items():
        yield (*above, name)
        for kind in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from fields_of(kind, (*above, name))


def as_the_jobs_do(path: Path) -> None:
    """What a job does with a config before it opens the records."""
    config = load_config(path)
    _ = config.located().features_dir
    if all(settings.weights is None for settings in config.experts.values()):
        check_experts(config)


def test_every_key_of_every_config(tmp_path: Path) -> None:
    path = tmp_path / "hurt.yaml"

    def cases() -> Iterator[tuple[str, Callable[[], Any]]]:
        small = {"records": "a", "run_dir": "b", "tasks": ["age"], "experts": {"dlinear": {}}}
        of_entries = [("experts", "dlinear", name) for name in ExpertSettings.model_fields]
        todo = [(small, [*fields_of(Config), *of_entries])]
        todo += [(values := yaml.safe_load(file.read_text()), list(keys_of(values)))
                 for file in CONFIGS]  # fmt: skip
        for number, (values, keys) in enumerate(todo):
            # Shipped configs have the same keys, and each of them a share of the values.
            some = HURTFUL if number == 0 else HURTFUL[number :: len(CONFIGS)]
            for name, text in texts(values, keys, some):
                path.write_text(text)
                yield f"{number}: {name}", lambda: load_config(path).located()

    assert bounded(cases) > 2000
    assert list(tmp_path.iterdir()) == [path]


def options_of(name: str) -> list[tuple[str, ...]]:
    """Every option of an expert, the sizes in ``config`` included."""
    found: list[tuple[str, ...]] = [(option,) for option in experts.options(name)]
    module = typing.cast(Any, __import__(experts.expert_class(name).__module__, fromlist=["x"]))
    kinds = [k for k in vars(module).values() if isinstance(k, type) and issubclass(k, Sizes)]
    top = [k for k in kinds if k is not Sizes and not k.__name__.startswith("_")]
    if "config" in experts.options(name):
        assert len(top) == 1, "the fields of an expert's sizes are found by looking"
        found += fields_of(top[0], ("config",))
    return found


FOR_OPTIONS = [
    "null", "true", "-1", "0", "1", "2.5", "1e12", "100000000000", "1e308", ".nan", ".inf", "''",
    "x" * 300, "[]", "{}", "[[], {}]", "{a: {b: [1]}}", "8192", "1000000", "/dev/zero",
]  # fmt: skip


def test_every_option_of_every_expert() -> None:
    """Before anything is allocated: sizes alone, and sizes that only together are too large."""
    built = []
    for name in experts.names():
        with suppress(ImportError):
            experts.load(name, **SMALL.get(name, {}))
            built.append(name)

    def cases() -> Iterator[tuple[str, Callable[[], Any]]]:
        for name in built:
            for key in options_of(name):
                for hurtful in FOR_OPTIONS:
                    try:
                        value = parse_yaml(f"x: {hurtful}")["x"]
                    except ValueError:
                        continue
                    options = set_to(SMALL.get(name, {}), key, value)
                    yield f"{name} {'.'.join(key)}: {hurtful[:60]}", _loading(name, options)

    assert bounded(cases) > 1000


def _loading(name: str, options: dict[str, Any]) -> Callable[[], Any]:
    """Load an expert; the numbers of one that is accepted are not drawn, which takes longest."""

    def job() -> None:
        with torch.device("meta"), suppress(NotImplementedError):
            experts.load(name, **options)

    return job


def test_every_key_of_every_space(tmp_path: Path) -> None:
    path, heads = tmp_path / "gate.yaml", tmp_path / "heads.yaml"
    settings = load_config(CONFIGS[0]).stage1.model_copy(
        update={"head_trials": 2, "head_space": str(heads)}
    )

    def cases() -> Iterator[tuple[str, Callable[[], Any]]]:
        gate = yaml.safe_load(SPACES["gate"].read_text())
        for name, text in texts(gate, list(keys_of(gate))):
            path.write_text(text)
            yield f"gate: {name}", lambda: Space(path, ["rocket", "beats"]).draw(Chance(0, 1))
        form = yaml.safe_load(SPACES["heads"].read_text())
        for name, text in texts(form, list(keys_of(form))):
            heads.write_text(text)
            yield f"heads: {name}", lambda: head_choices(settings, 0)

    assert bounded(cases) > 2000


def test_every_value_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("{records: a, run_dir: b, tasks: [age], experts: {rocket: {}}}")

    def setting(change: str) -> Callable[[], Any]:
        return lambda: load_config(path, [change])

    def cases() -> Iterator[tuple[str, Callable[[], Any]]]:
        for key in [".".join(key) for key in fields_of(Config)]:
            for hurtful in [*HURTFUL, "\0", "\ud800", "a: b: c", "["]:
                yield f"{key}={hurtful[:40]}", setting(f"{key}={hurtful}")
        for key in (
            "a" * 10**5,
            "a." * 10**5,
            "\x1b[1m",
            "\ud800",
            "experts.é",
            "a\0b",
            ".",
            "a..b",
        ):
            for hurtful in ("1", "{}", "x" * 10**6):
                yield f"{key[:40]}={hurtful[:40]}", setting(f"{key}={hurtful}")

    assert bounded(cases) > 2000


def test_any_bytes(tmp_path: Path) -> None:
    """Shipped files with bytes changed, cut, doubled and put in."""
    path, rng = tmp_path / "x.yaml", random.Random(7)
    tokens = [b"&a ", b"*a", b"!!x ", b": ", b"- ", b"? ", b"[", b"{", b"\t", b"\r", b"'", b'"',
              b"|\n", b"<<", b"%", b"---\n", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"#", b"@",
              b"\xed\xa0\x80"]  # fmt: skip

    def cases() -> Iterator[tuple[str, Callable[[], Any]]]:
        files = [file.read_bytes() for file in (*CONFIGS, *SPACES.values())]
        for turn in range(600):
            data = bytearray(rng.choice(files))
            data = data[: rng.randrange(200, 1500)]
            for _ in range(rng.randrange(1, 6)):
                at = rng.randrange(len(data))
                kind = rng.randrange(4)
                if kind == 0:
                    data[at] = rng.randrange(256)
                elif kind == 1:
                    del data[at : at + rng.randrange(1, 30)]
                elif kind == 2:
                    data[at:at] = rng.choice(tokens) * rng.choice([1, 1, 2, 40])
                else:
                    data += data[at : at + rng.randrange(1, 200)]
                data = data or bytearray(b"x")
            path.write_bytes(bytes(data))
            yield f"{turn}: {bytes(data[-80:])!r}", lambda: as_the_jobs_do(path)

    assert bounded(cases) == 600


def nested(n: int, width: int) -> str:
    lines = ["x0: &a0 [1]"]
    lines += [f"x{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, n + 1)]
    return "\n".join(lines)


FILES = {
    "aliases that expand to 9 ** 10": (nested(10, 9), "aliases followed"),
    "an alias of itself": ("experts: &a {x: *a}", "levels inside each other, aliases"),
    "deep lists": ("x: " + "[" * 3000, "levels inside each other"),
    "very deep lists": ("[" * 250_000, "levels inside each other"),
    "deep mappings": ("{a: " * 50_000, "levels inside each other"),
    "deep keys": ("? " * 100_000, "levels inside each other"),
    "lists in lists": ("x: " + "[" * 3000 + "]" * 3000, "levels inside each other"),
    "many values": ("[" + "a, " * 80_000 + "]", "more than 50,000 values"),
    "a large file": ("#" * (LARGEST_FILE + 1), "more than 262,144 bytes"),
    "nothing": ("", "must hold a mapping"),
    "tabs": ("\trecords: x", r"line 1, column 1: found character '\t'"),
    "two documents": ("a: 1\n---\nb: 1", "another document"),
    "a key twice": ("records: a\nseed: 1\nrecords: b",
                    "line 3: the key 'records' is given twice, first in line 1"),
    "an inner key twice": ("stage1:\n  epochs: 1\n  epochs: 2",
                           "line 3: the key 'epochs' is given twice"),
    "a number as key": ("a: b\n1: x", 'line 2: the key 1 is not text; write "1" in quotes'),
    "a key that is no": ("no: x", "the key no is not text"),
    "UTF-16": ("records: x".encode("utf-16"), "line 1 is not UTF-8"),
    "a long number": ("seed: " + "9" * 5000, "line 1: a number of 5,000 characters"),
    "an object": ("seed: !!python/object:os.system x",
                  "the tag '!!python/object:os.system' is not"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_what_a_file_may_not_be(case: str, tmp_path: Path) -> None:
    content, told = FILES[case]
    path = tmp_path / "x.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    started = time.process_time()
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert told in str(caught.value)
    assert len(str(caught.value)) < LONGEST_LINE
    assert str(caught.value).isprintable()
    assert time.process_time() - started < 60, "ended, however slow the machine"


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    for place in (tmp_path, tmp_path / "fifo", Path("/dev/zero"), tmp_path / "ring",
                  tmp_path / ("x" * 300),
                  tmp_path / "a\0b", tmp_path / "\ud800" / "b"):  # fmt: skip
        with pytest.raises(
            UserError, match=r"config: (cannot read|no file|'?.*(too long|UTF-8|NUL))"
        ) as caught:
            load_config(place)
        assert str(caught.value).isprintable()


def test_what_is_read_is_what_stands_there(tmp_path: Path) -> None:
    """Numbers are decimal, dates are text, aliases and merges work and share nothing."""
    path = tmp_path / "x.yaml"
    path.write_bytes(
        b"\xef\xbb\xbfa: &a {x: 1, y: [2]}\nb: {<<: *a, x: 3}\nc: *a\n"
        b"d: [010, 1:30, 2024-01-01, 1e-3]\n"
        b"e: [1_000, 0x10, -.inf, ~, yes, '1', !!str 2, 1., .5, +7]\n"
    )
    read = read_yaml(path, "config")
    assert read["b"] == {"x": 3, "y": [2]}
    assert read["d"] == [10, "1:30", "2024-01-01", 0.001]
    assert read["e"] == [1000, "0x10", -math.inf, None, True, "1", "2", 1.0, 0.5, 7]
    assert read["a"] == read["c"]
    read["a"]["y"].append(0)
    assert read["c"]["y"] == [2]


@pytest.mark.parametrize("path", [*CONFIGS, *SPACES.values(), REPOSITORY / "cluster.yaml"], ids=str)
def test_shipped_files_are_read_as_yaml_reads_them(path: Path) -> None:
    assert read_yaml(path, "config") == yaml.safe_load(path.read_text(encoding="utf-8"))
