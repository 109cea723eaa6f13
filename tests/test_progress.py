"""What long work says of itself."""

from __future__ import annotations

import pytest

from enecg import progress
from enecg.progress import counting, duration


def test_times_are_said_as_people_say_them() -> None:
    said = [duration(seconds) for seconds in (0.4, 99, 100, 3540, 3599, 11_100)]
    assert said == ["0 s", "99 s", "2 min", "59 min", "1 h 00 min", "3 h 05 min"]


def test_a_log_says_done_rate_time_left_and_state(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with counting("convert", 100_000, done_before=40_000) as counter:
        now += 5
        counter.advance(5_000, "3 rejected")  # less than ten seconds: silent
        now += 15
        counter.advance(5_000)
        now += 9
        counter.advance(1_000)
        now += 3_571
        counter.advance(49_000, "7 rejected")
    assert capsys.readouterr().err.splitlines() == [
        # What was done before is done, but says nothing on how fast this goes.
        "convert: 50,000 of 100,000 records, 500/s, 2 min left, 3 rejected",
        "convert: 100,000 of 100,000 records, 17/s, 7 rejected",
    ]
