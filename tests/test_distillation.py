"""Distillation: resumable in the middle, and the same text from any number of processes."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

import vqnmt.distillation
from vqnmt.distillation import distill
from vqnmt.progress import Progress
from vqnmt.translator import Translation

SOURCES = [f"{'word ' * (i * 7 % 11)}{i}" for i in range(25)]
EXPECTED = [source.upper() for source in SOURCES]


class Shouter:
    """A teacher that writes in capitals, and counts; it may be stopped before a call."""

    def __init__(self, calls: int | None = None) -> None:
        self.calls, self.translated, self.beams = calls, 0, set()

    def translate(
        self, sentences: Sequence[str], *, beam: int = 1, progress: Progress | None = None
    ) -> list[Translation]:
        if self.calls == 0:
            raise KeyboardInterrupt
        if self.calls is not None:
            self.calls -= 1
        self.translated += len(sentences)
        self.beams.add(beam)
        if progress is not None:
            progress.update(len(sentences))
        return [Translation(sentence.upper()) for sentence in sentences]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vqnmt.distillation, "PART", 4)


def test_order_is_kept(tmp_path: Path) -> None:
    teacher = Shouter()
    assert distill(teacher, SOURCES, tmp_path, beam=3) == EXPECTED
    assert teacher.translated == 25 and teacher.beams == {3}
    assert distill(teacher, [], tmp_path / "none") == []


def test_interrupted_distillation_keeps_finished_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        distill(Shouter(calls=3), SOURCES, tmp_path)
    parts = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(parts) == ["part-00000.json", "part-00001.json", "part-00002.json"]
    capsys.readouterr()
    teacher = Shouter()
    assert distill(teacher, SOURCES, tmp_path) == EXPECTED
    assert teacher.translated == 25 - 12
    assert "25 of 25 sentences" in capsys.readouterr().err
    for name, content in parts.items():
        assert (tmp_path / name).read_bytes() == content


class OneOf:
    """Stands for accelerate's state in one of several processes, which are threads here."""

    def __init__(self, index: int, barrier: threading.Barrier) -> None:
        self.process_index, self.num_processes = index, barrier.parties
        self.wait_for_everyone = barrier.wait


@contextmanager
def processes(number: int) -> Iterator[threading.Barrier]:
    """Let `PartialState()` return the state of the thread that calls it."""
    barrier = threading.Barrier(number, timeout=30)

    def state() -> OneOf:
        return OneOf(int(threading.current_thread().name), barrier)

    with mock.patch("vqnmt.distillation.PartialState", state):
        yield barrier


@pytest.mark.parametrize("number", [2, 3, 8])
def test_processes_share_the_work_and_merge_the_same_text(tmp_path: Path, number: int) -> None:
    teachers = [Shouter() for _ in range(number)]
    found: dict[int, list[str]] = {}

    def work(index: int) -> None:
        found[index] = distill(teachers[index], SOURCES, tmp_path)

    with processes(number):
        threads = [
            threading.Thread(target=work, args=(index,), name=str(index)) for index in range(number)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert all(found[index] == EXPECTED for index in range(number))
    assert sum(teacher.translated for teacher in teachers) == 25
    # Seven parts; the eighth process has nothing to do and still ends.
    assert max(teacher.translated for teacher in teachers) <= 4 * -(-7 // number)


def test_other_number_of_processes_goes_on_with_the_parts(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        distill(Shouter(calls=2), SOURCES, tmp_path)
    teachers = [Shouter(), Shouter()]
    with processes(2):
        threads = [
            threading.Thread(target=distill, args=(teachers[i], SOURCES, tmp_path), name=str(i))
            for i in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert sum(teacher.translated for teacher in teachers) == 25 - 8
    assert distill(Shouter(calls=0), SOURCES, tmp_path) == EXPECTED
