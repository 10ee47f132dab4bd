"""Progress in a log file: quiet, with rate and time left; on a terminal: a bar."""

import io

import pytest

from dfusion_core.runtime import progress


def test_a_log_file_gets_a_line_a_minute() -> None:
    times = iter(range(0, 10_000, 25))
    stream = io.StringIO()
    parts = [range(i, i + 4) for i in range(8, 32, 4)]
    seen = list(progress._lines(parts, len, 32, 8, "sample r00", stream, clock=lambda: float(next(times))))
    assert seen == parts
    assert stream.getvalue().splitlines() == [
        "sample r00: 20 of 32, 0.12 a second, 2 min left",
        "sample r00: 32 of 32, 0.12 a second, 0 s left",
    ]


def test_nothing_is_printed_for_quick_work() -> None:
    stream = io.StringIO()
    assert list(progress.track([range(4)], len, 4, 0, "x", stream)) == [range(4)]
    assert stream.getvalue() == ""


def test_a_bar_yields_the_same_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress._bar([range(4), range(4, 6)], len, 6, 0, "sample r00")) == [range(4), range(4, 6)]


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (720, "12 min"), (12600, "3.5 h")])
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
