"""Progress: a bar on a terminal, plain lines elsewhere."""

import errno
import gc
import os
import sys

import pytest

import vqnmt.progress
from vqnmt.progress import Progress


class Clock:
    """A clock that goes on when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(vqnmt.progress, "time", found)
    return found


def test_plain_lines_have_rate_and_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("training", 4000, "steps", initial=1000) as progress:
        progress.update(5)
        assert capsys.readouterr().err == "", "not a line for every step"
        clock.now += 20
        progress.update(995, "loss 1.5")
        line = capsys.readouterr().err
        # 1,000 steps done in 20 s here, the 1,000 of an earlier run not counted.
        assert line == "training: 2,000 of 4,000 steps · 50.0 steps/s · 0:40 left · loss 1.5\n"
        clock.now += 4000
        progress.update(1)
        assert " · 2:13:48 left · " in capsys.readouterr().err  # 1,999 steps at 1,001 in 4,020 s
    assert capsys.readouterr().err.startswith("training: 2,001 of 4,000 steps")


def test_without_total(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("reading", unit="pairs") as progress:
        clock.now += 2
        progress.update(10)
    assert capsys.readouterr().err == "reading: 10 pairs · 5.0 pairs/s\n"


def test_nothing_done_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("distillation", 10, "sentences", initial=10):
        pass
    assert capsys.readouterr() == ("", "")


def test_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("training", 10) as progress:
        progress.write("a line")
    assert capsys.readouterr() == ("", "a line\n")


def test_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("training", 10, "steps", initial=4) as progress:
        progress.update(3, "loss 1.5")
        progress.write("a line")
        progress.update(3)
    captured = capsys.readouterr()
    assert captured.out == "" and "a line\n" in captured.err
    assert "training:" in captured.err and "10.0/10.0" in captured.err
    assert "loss 1.5" in captured.err


def test_only_the_first_process_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    with Progress("training", 10) as progress:
        progress.update(10)
        progress.write("a line")
    assert capsys.readouterr() == ("", "") and progress.done == 10


class Terminal:
    """A terminal that can be closed, or a pipe whose reader can end."""

    def __init__(self, terminal: bool, gone: bool) -> None:
        self.isatty, self.gone = lambda: terminal, gone

    def write(self, text: str) -> int:
        if self.gone:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return len(text)

    def flush(self) -> None:
        self.write("")


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("gone", [True, False])
def test_work_goes_on_when_nobody_hears(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, terminal: bool, gone: bool
) -> None:
    stream = Terminal(terminal, gone)
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress("training", 10, "steps") as progress:
        for step in range(10):
            stream.gone |= step == 5
            clock.now += 20
            progress.update(1, "loss 1.5")
            progress.write("a line")
    assert progress.done == 10
    del progress
    gc.collect()


def test_no_standard_error_at_all(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with Progress("training", 10, "steps") as progress:
        clock.now += 20
        progress.update(10)
        progress.write("a line")
    assert capsys.readouterr().out == "", "print(file=None) would write to standard output"
