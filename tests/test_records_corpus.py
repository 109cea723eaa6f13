"""The folder that recordings are read from, on disk and on an S3 server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from enecg.errors import UserError
from enecg.records import sources
from enecg.records.corpus import Corpus
from enecg.storage import Folder, open_file
from records_helpers import some_signal, write_record
from s3_server import s3_server, upload


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as uri:
        yield uri


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_names_are_sorted_hidden_ones_left_out_and_alike_on_disk_and_on_s3(
    tmp_path: Path, bucket: str
) -> None:
    put(tmp_path, "b/2.hea", "a/x/3.hea", "1.hea", "1.dat", ".git/9.hea", "a/.8.hea", "ä ö[1]*.hea")
    expected = ["1.hea", "a/x/3.hea", "b/2.hea", "ä ö[1]*.hea"]
    assert Corpus.at(tmp_path).names_ending(".hea") == expected
    upload(tmp_path, f"{bucket}/names")
    remote = Corpus.at(f"{bucket}/names")
    assert remote.names_ending(".hea") == expected
    for corpus in (Corpus.at(tmp_path), remote):
        assert corpus.exists("b/2.hea") and not corpus.exists("b") and not corpus.exists("b/7.hea")
        assert corpus.read("ä ö[1]*.hea").decode() == "ä ö[1]*.hea"
        heads = dict(corpus.read_heads(["1.hea", "gone.hea", "b/2.hea"], 3))
        assert heads == {"1.hea": b"1.h", "gone.hea": b"", "b/2.hea": b"b/2"}
        with open_file(corpus.uri_of("1.dat")) as file:
            assert file.read() == b"1.dat"
        with pytest.raises(UserError, match="no such file"):
            open_file(corpus.uri_of("2.dat"))


def test_links_in_loops_end_and_links_that_lead_out_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "in", "a/1.hea", "2.hea")
    put(tmp_path / "in too", "secret.hea")
    (tmp_path / "in" / "a" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self").symlink_to(tmp_path / "in" / "self")
    (tmp_path / "in" / "out").symlink_to(tmp_path / "in too")
    (tmp_path / "in" / "out.hea").symlink_to(tmp_path / "in too" / "secret.hea")
    (tmp_path / "in" / "3.hea").symlink_to("2.hea")
    (tmp_path / "in" / "4.hea").symlink_to("nothing.hea")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for folder in ("in", "link"):
        found = Corpus.at(tmp_path / folder).names_ending(".hea")
        assert found == ["2.hea", "3.hea", "4.hea", "a/1.hea"]
    assert "2 links that lead out" in capsys.readouterr().err


def test_files_are_fetched_under_their_names(tmp_path: Path, bucket: str) -> None:
    put(tmp_path / "in", "a/1.hea", "a/1.dat", "2.hea", "[x].hea")
    upload(tmp_path / "in", f"{bucket}/fetched")
    corpus = Corpus.at(f"{bucket}/fetched")
    corpus.fetch(["a/1.hea", "a/1.dat", "[x].hea", "gone.hea", "2.hea", "2.hea"], tmp_path / "out")
    fetched = sorted(
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*")
    )
    assert fetched == ["2.hea", "[x].hea", "a", "a/1.dat", "a/1.hea"]
    assert (tmp_path / "out" / "a" / "1.dat").read_text() == "a/1.dat"
    with pytest.raises(ValueError, match="leads out"):
        corpus.fetch(["../x"], tmp_path / "out")


def test_what_cannot_be_opened_is_told(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Corpus.at(tmp_path / "x")
    with pytest.raises(UserError, match="no such folder"):
        Corpus.at(f"{bucket}/nothing")
    with pytest.raises(UserError, match="no such folder"):
        Corpus.at("s3://no-such-bucket/x")
    with pytest.raises(UserError, match="s4:// cannot be opened"):
        Corpus.at("s4://bucket/x")
    os.makedirs(os.fsencode(tmp_path) + b"/latin")
    (tmp_path / "latin" / os.fsdecode(b"M\xfcller.hea")).touch()
    with pytest.raises(UserError, match=r"M\\udcfcller.hea: a name that is not UTF-8"):
        Corpus.at(tmp_path / "latin").names_ending(".hea")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="Could not connect"):
        Corpus.at(f"{bucket}/nothing")


def test_a_folder_of_files_is_written_to_alike(tmp_path: Path, bucket: str) -> None:
    for folder in (Folder.at(tmp_path / "out"), Folder.at(f"{bucket}/out")):
        assert not folder.is_there() and folder.names() == []
        folder.write("part/x", b"12")
        folder.write("y", b"3" * 6_000_000)
        with pytest.raises(TypeError), folder.replacing("z") as temporary:
            temporary.write_bytes("not bytes")
        assert folder.names() == ["part", "y"] and folder.below("part").names() == ["x"]
        assert folder.sha256("part/x").startswith("6b51d431df5d7f14")
        folder.write("y", b"4")
        assert folder.read("y") == b"4"
        folder.remove("part")
        folder.remove("part")
        assert folder.names() == ["y"]


def test_sources_list_a_corpus_on_s3_as_on_disk(tmp_path: Path, bucket: str) -> None:
    for number in range(3):
        write_record(tmp_path / "a", f"r{number}", some_signal(100, 1), ["II"])
    (tmp_path / "a" / "whole.hea").write_text("whole/2 1 500 200\nr1 100\nr2 100\n")
    upload(tmp_path, f"{bucket}/wfdb")
    listed = [
        sources.get("wfdb").list_records(Corpus.at(place), None).table
        for place in (tmp_path, f"{bucket}/wfdb")
    ]
    assert listed[0]["path"].tolist() == ["a/r0", "a/whole"]
    assert listed[0].equals(listed[1])
