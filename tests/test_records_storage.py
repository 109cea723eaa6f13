"""Stores on S3, stores that break, and stores that two jobs or a full disk are at."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from enecg.errors import JobFailed, UserError
from enecg.records import RecordStore, decode
from enecg.records import convert as convert_module
from enecg.records import relabel as relabel_module
from enecg.records.convert import convert
from enecg.records.describe import describe
from enecg.records.parts import claim
from enecg.records.relabel import relabel
from enecg.records.verify import verdict_text, verify
from enecg.storage import Folder
from records_helpers import corpus, run_convert, run_job, some_signal, write_record
from s3_server import s3_server, upload


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as uri:
        yield uri


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve records in two folders, one of them in two segments, one broken; and labels."""
    folder = corpus(tmp_path_factory.mktemp("corpus"), 10)
    for part in ("s1", "s2"):
        write_record(folder / "deep", part, some_signal(2500, seed=50))
    (folder / "deep" / "whole.hea").write_text("whole/2 12 500 5000\ns1 2500\ns2 2500\n")
    (folder / "deep" / "gone.hea").write_text((folder / "r000.hea").read_text())
    return folder


@pytest.fixture(scope="module")
def store(
    recordings: Path, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None
) -> RecordStore:
    """The recordings as a store of three shards on disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_module, "RECORDS_PER_SHARD", 4)
        place = tmp_path_factory.mktemp("stores") / "store"
        return convert("wfdb", recordings, place, recordings / "labels.csv", max_rejected=0.5)


def hashes(folder: Folder) -> dict[str, str]:
    return {name: folder.sha256(name) for name in folder.names()}


def test_from_s3_to_s3_it_is_the_same_store(
    store: RecordStore, recordings: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_module, "RECORDS_PER_SHARD", 4)
    upload(recordings, f"{bucket}/in")
    labels = f"{bucket}/in/labels.csv"
    made = convert("wfdb", f"{bucket}/in", f"{bucket}/a/store", labels, max_rejected=0.5)
    assert hashes(made.folder) == hashes(store.folder)
    assert made.index.equals(store.index)
    assert made.rejected["path"].tolist() == ["deep/gone"]
    # Read back: plainly, in part, and by Ray Data.
    here = {
        name: x for names, x_BLT in store.signals() for name, x in zip(names, x_BLT, strict=True)
    }
    there = RecordStore.open(f"{bucket}/a/store")
    for names, x_BLT in there.signals(["r001", "whole", "r007"]):
        np.testing.assert_array_equal(x_BLT, np.stack([here[name] for name in names]))
    seen = 0
    for batch in there.dataset().iter_batches(batch_size=3, batch_format="numpy"):
        expected = np.stack([here[name] for name in batch["record_id"]])
        np.testing.assert_array_equal(decode(batch), expected)
        seen += len(expected)
    assert seen == len(here) == 11
    assert verify(f"{bucket}/a/store").sound
    assert f"{bucket}/a/store" in describe(there)
    with pytest.raises(UserError, match="finished record store"):
        convert("wfdb", f"{bucket}/in", f"{bucket}/a/store", labels)
    relabelled = relabel("wfdb", f"{bucket}/in", f"{bucket}/a/store")
    assert "ward" not in relabelled.index and verify(f"{bucket}/a/store").sound
    again = convert(
        "wfdb", recordings, f"{bucket}/a/store", labels, None, 3, max_rejected=1, overwrite=True
    )
    assert len(again.index) == 2 and len(again.rejected) == 1 and len(again.shards) == 1
    assert set(again.folder.names()) == {*again.description["files"], "dataset.json"}


def test_what_s3_refuses_is_one_line(
    recordings: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, told in (
        ((recordings, "s3://no-such-bucket/x"), "bucket does not exist"),
        ((f"{bucket}/nothing-here", "x"), "no such folder"),
    ):
        with pytest.raises(UserError, match=told):
            convert("wfdb", *arguments)
    with pytest.raises(UserError, match="no record store here"):
        RecordStore.open(f"{bucket}/nothing-here")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="Could not connect"):
        RecordStore.open(f"{bucket}/nothing-here")


def test_verify_names_what_is_damaged_missing_and_foreign(
    store: RecordStore, tmp_path: Path
) -> None:
    copy = Folder.at(tmp_path / "store")
    for name in store.folder.names():
        copy.write(name, store.folder.read(name))
    assert verify(copy.uri).sound
    one, two, _ = store.shards
    content = bytearray(copy.read(one))
    content[len(content) // 2] ^= 1  # one bit
    copy.write(one, bytes(content))
    copy.remove(two)
    copy.write("notes.txt", b"mine")
    verdict = verify(copy.uri)
    assert (verdict.damaged, verdict.missing) == ((one,), (two,))
    assert verdict.foreign == ("notes.txt",) and not verdict.sound
    text = verdict_text(copy.uri, verdict)
    assert f"damaged: {one}\nmissing: {two}\nno part of the store: notes.txt" in text
    finished = run_convert("--verify", copy.uri)
    assert finished.returncode == 1 and finished.stdout.strip() == text
    copy.write("dataset.json", b"{")
    with pytest.raises(UserError, match="not a record store of format version"):
        verify(copy.uri)


def test_the_description_counts_what_is_there(store: RecordStore) -> None:
    lines = [" ".join(line.split()) for line in describe(store).splitlines()]
    for expected in (
        "listed 12",
        "accepted 11 91.7%",
        "rejected 1 8.3%",
        "unreadable 1 8.3%",
        "identical signals 2 records, 1 signals",
        "500 Hz 11 100.0% ████████████████████████",
        "label age",
        "of which impossible 2",
        "median 50.0 years",
        "metadata: ward",
    ):
        assert expected in lines, f"{expected!r} not in {lines}"
    assert any(re.match(r"size \d+\.\d MB in 6 files, \d+\.\d kB of signal a record", line)
               for line in lines)  # fmt: skip


def test_a_record_is_drawn_by_its_id(store: RecordStore, tmp_path: Path) -> None:
    drawn = run_job(
        "draw.py", "--records", store.uri, "--record", "r003", "--output", tmp_path / "ecg.png"
    )
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "ecg.png").read_bytes().startswith(b"\x89PNG")
    for record, output, told in (
        ("r9", "x.png", "no record 'r9'"), ("r3", "x.doc", "png, pdf"),
        ("r003", "ecg.png/x.png", "--output"),
    ):  # fmt: skip
        refused = run_job(
            "draw.py", "--records", store.uri, "--record", record, "--output", tmp_path / output
        )
        assert refused.returncode == 2 and told in refused.stderr
        assert not (tmp_path / output).exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--verify", "x", "--output", "y"], "--verify does not go with --output"),
        (["--verify", "x", "--seed", "3"], "--verify does not go with --seed"),
        (["--describe", "x", "--verify", "y"], "--verify does not go with --describe"),
        (["--describe", "x"], "x: no record store here"),
        (["--source", "wfdb", "--output", "x"], "missing option --input"),
        (["--relabel", "--source", "wfdb", "--input", "x", "--output", "y", "--overwrite"],
         "--relabel does not go with --overwrite"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(arguments: list[str], told: str) -> None:
    finished = run_convert(*arguments)
    assert finished.returncode == 2, finished.stderr
    assert told in finished.stderr and len(finished.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("moment", ["before", "write index", "write description", "tidy"])
def test_stopped_while_relabelling_it_has_the_old_labels_or_the_new(
    store: RecordStore,
    recordings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    copy = Folder.at(tmp_path / "store")
    for name in store.folder.names():
        copy.write(name, store.folder.read(name))
    labels = tmp_path / "new.csv"
    labels.write_text("record_id,flag\nr000,normal\n")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    write, remove = Folder.write, Folder.remove
    with monkeypatch.context() as patch:
        if moment == "before":
            patch.setattr(relabel_module, "write_description", stop)
        elif moment == "tidy":
            patch.setattr(
                Folder,
                "remove",
                lambda self, name: stop() if name == "dataset.json" else remove(self, name),
            )
        else:
            stopped_at = "index.parquet" if moment == "write index" else "dataset.json"

            def writes(self: Folder, name: str, content: bytes) -> None:
                if name == stopped_at and not self.uri.endswith(".relabelled"):
                    stop()
                write(self, name, content)

            patch.setattr(Folder, "write", writes)
        with pytest.raises(KeyboardInterrupt):
            relabel("wfdb", recordings, copy.uri, labels)
    found = RecordStore.open(copy.uri)
    assert ("flag" in found.index) == (moment != "before") == ("age" not in found.index)
    assert set(found.description["labels"]) == {"age", "gender", "rr_interval"} - (
        set() if moment == "before" else {"age", "gender", "rr_interval"}
    ) | (set() if moment == "before" else {"flag"})
    assert verify(copy.uri).sound
    after = relabel("wfdb", recordings, copy.uri, labels)
    assert after.folder.names() == store.folder.names() and verify(copy.uri).sound
    assert after.index["flag"].notna().sum() == 1


def test_a_second_conversion_takes_over_and_the_first_stops(
    recordings: Path, tmp_path: Path, ray_cluster: None
) -> None:
    place = Folder.at(tmp_path / "store")
    first = claim(place, {"source": "wfdb"}, False)
    with pytest.raises(UserError, match="made with other arguments"):
        claim(place, {"source": "ptb-xl"}, False)
    first.check()
    second = claim(place, {"source": "wfdb"}, False)
    with pytest.raises(JobFailed, match="another conversion has taken over"):
        first.check()
    second.check()
    with pytest.MonkeyPatch.context() as patch:

        def overtaken(*arguments: object) -> object:
            held = claim(*arguments)
            claim(*arguments[:2], False)
            return held

        patch.setattr(convert_module, "claim", overtaken)
        with pytest.raises(JobFailed, match="another conversion has taken over"):
            convert("wfdb", recordings, tmp_path / "other")


def test_output_that_cannot_be_written_is_one_line(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place, told in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "x", "Not a dir"),
                        ("/proc/nothing", "No such file")):  # fmt: skip
        with pytest.raises(UserError, match=told):
            convert("wfdb", recordings, place)


FULL = """
import resource, sys
from pathlib import Path
import ray
from enecg.command_line import run
from enecg.errors import exit_code_of
from enecg.records.convert import convert
from enecg.records import convert as module
limit = int(sys.argv[3])
inner = module.convert_shard
def limited(*arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return inner(*arguments)
module.convert_shard = limited
sys.exit(exit_code_of(lambda: convert("wfdb", sys.argv[1], sys.argv[2], max_rejected=0.5) and 0))
"""


def test_a_disk_that_is_full_is_one_line_and_what_is_done_counts(
    recordings: Path, store: RecordStore, tmp_path: Path
) -> None:
    """The limit on a file's size stands for the disk: it fails the same write in the same way."""
    place = tmp_path / "store"
    finished = subprocess.run(
        [sys.executable, "-c", FULL, recordings, place, "50000"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 1, finished.stderr
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith("failed: shard-00000.parquet: ") and "File too large" in last
    assert "Traceback" not in finished.stderr
    assert not list(place.glob("*.parquet")) and not list(place.glob(".*.tmp"))
    made = convert("wfdb", recordings, place, max_rejected=0.5)
    assert verify(place).sound and len(made.index) == 11
