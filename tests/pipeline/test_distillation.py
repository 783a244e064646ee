"""Distillation: resumable in the middle, and the same text from any number of processes."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

import vqnmt.pipeline.distillation
from vqnmt.data.lines import Lines
from vqnmt.errors import VqnmtError
from vqnmt.pipeline.distillation import distill
from vqnmt.progress import Progress
from vqnmt.translate.pytorch import Translation

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
    monkeypatch.setattr(vqnmt.pipeline.distillation, "PART", 4)


def lines(path: Path) -> list[str]:
    content = path.read_bytes().decode()
    assert content == "" or content.endswith("\n")
    return content.split("\n")[:-1]


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "parts").iterdir())}


def test_order_is_kept(tmp_path: Path) -> None:
    teacher = Shouter()
    assert distill(teacher, SOURCES, tmp_path / "text", beam=3) == 0
    assert lines(tmp_path / "text") == EXPECTED
    assert teacher.translated == 25 and teacher.beams == {3}
    distill(teacher, [], tmp_path / "none" / "text")
    assert lines(tmp_path / "none" / "text") == []


def test_parts_are_by_length_then_by_place(tmp_path: Path) -> None:
    distill(Shouter(), SOURCES, tmp_path / "text")
    joined = [
        text for part in parts(tmp_path).values() for text in json.loads(part.splitlines()[0])
    ]
    order = sorted(range(25), key=lambda i: (len(SOURCES[i]), i))
    assert joined == [EXPECTED[i] for i in order]


def test_a_source_is_translated_once_and_a_misfit_never(tmp_path: Path) -> None:
    teacher = Shouter()
    sources = ["b", "a a", "", "b", "too long", "a a", "b", "too long", "cc"]
    misfits = distill(teacher, sources, tmp_path / "text", fits=lambda text: len(text) < 5)
    assert lines(tmp_path / "text") == ["B", "A A", "", "B", "", "A A", "B", "", "CC"]
    assert (misfits, teacher.translated) == (1, 4)


def test_sources_may_stay_on_disk(tmp_path: Path) -> None:
    (tmp_path / "sources").write_text("".join(source + "\n" for source in SOURCES))
    distill(Shouter(), Lines(tmp_path / "sources"), tmp_path / "text")
    assert lines(tmp_path / "text") == EXPECTED


def test_a_line_feed_in_a_translation_shifts_no_line(tmp_path: Path) -> None:
    """A model that spells bytes can write any character."""

    class Breaker(Shouter):
        def translate(self, sentences: Sequence[str], **options: object) -> list[Translation]:
            return [Translation(f"{sentence}\n\r\u2028x ") for sentence in sentences]

    distill(Breaker(), SOURCES, tmp_path / "text")
    assert lines(tmp_path / "text") == [f"{source} x" for source in SOURCES]


def test_interrupted_distillation_keeps_finished_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        distill(Shouter(calls=3), SOURCES, tmp_path / "text")
    kept = parts(tmp_path)
    assert sorted(kept) == ["part-00000.json", "part-00001.json", "part-00002.json"]
    assert not (tmp_path / "text").exists()
    capsys.readouterr()
    teacher = Shouter()
    distill(teacher, SOURCES, tmp_path / "text")
    assert lines(tmp_path / "text") == EXPECTED
    assert teacher.translated == 25 - 12
    assert "25 of 25 sentences" in capsys.readouterr().err
    assert kept.items() <= parts(tmp_path).items()
    assert {path.name for path in tmp_path.iterdir()} == {"parts", "text"}, "no scratch is left"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[",
        b"null",
        b"{}",
        b'["A", "B", "C"]',
        b'["A", 1, "C", "D"]',
        b'["\xff"]',
        b'["A", "B", "C", "D"]\n0123',  # not the checksum of these
    ],
)
def test_a_damaged_part_is_translated_again(tmp_path: Path, content: bytes) -> None:
    distill(Shouter(), SOURCES, tmp_path / "text")
    before = parts(tmp_path)
    (tmp_path / "parts" / "part-00001.json").write_bytes(content)
    teacher = Shouter()
    distill(teacher, SOURCES, tmp_path / "text")
    assert teacher.translated == 4 and parts(tmp_path) == before
    assert lines(tmp_path / "text") == EXPECTED


def test_one_changed_letter_in_a_part_is_noticed(tmp_path: Path) -> None:
    distill(Shouter(), SOURCES, tmp_path / "text")
    before = parts(tmp_path)
    path = tmp_path / "parts" / "part-00001.json"
    path.write_bytes(path.read_bytes().replace(b"WORD", b"WARD", 1))
    assert parts(tmp_path) != before
    distill(Shouter(), SOURCES, tmp_path / "text")
    assert parts(tmp_path) == before and lines(tmp_path / "text") == EXPECTED


def test_a_part_that_is_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "parts" / "part-00001.json").mkdir(parents=True)
    with pytest.raises(VqnmtError, match=r"part-00001\.json: cannot be written \(Is a directory"):
        distill(Shouter(), SOURCES, tmp_path / "text")
    (tmp_path / "parts" / "part-00001.json").rmdir()
    distill(Shouter(), SOURCES, tmp_path / "text")
    assert lines(tmp_path / "text") == EXPECTED


class OneOf:
    """Stands for accelerate's state in one of several processes, which are threads here."""

    def __init__(self, index: int, barrier: threading.Barrier) -> None:
        self.process_index, self.num_processes = index, barrier.parties
        self.is_main_process = index == 0
        self.wait_for_everyone = barrier.wait


@contextmanager
def processes(number: int) -> Iterator[threading.Barrier]:
    """Let `PartialState()` return the state of the thread that calls it."""
    barrier = threading.Barrier(number, timeout=30)

    def state() -> OneOf:
        return OneOf(int(threading.current_thread().name), barrier)

    with mock.patch("vqnmt.pipeline.distillation.PartialState", state):
        yield barrier


def distill_by(teachers: Sequence[Shouter], path: Path, paths: Sequence[Path] = ()) -> list[str]:
    """Distil by as many processes as there are teachers; return the errors."""
    errors: list[str] = []

    def work(index: int) -> None:
        try:
            distill(teachers[index], SOURCES, paths[index] if paths else path)
        except VqnmtError as error:
            errors.append(str(error))
            barrier.abort()
        except threading.BrokenBarrierError:
            pass  # a launcher stops the others

    with processes(len(teachers)) as barrier:
        threads = [
            threading.Thread(target=work, args=(index,), name=str(index))
            for index in range(len(teachers))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    return errors


@pytest.mark.parametrize("number", [2, 3, 8])
def test_processes_share_the_work_and_merge_the_same_file(tmp_path: Path, number: int) -> None:
    distill(Shouter(), SOURCES, tmp_path / "one" / "text")
    teachers = [Shouter() for _ in range(number)]
    assert distill_by(teachers, tmp_path / "many" / "text") == []
    one, many = tmp_path / "one", tmp_path / "many"
    assert (many / "text").read_bytes() == (one / "text").read_bytes()
    assert parts(many) == parts(one)
    assert sum(teacher.translated for teacher in teachers) == 25
    # Seven parts; the eighth process has nothing to do and still ends.
    assert max(teacher.translated for teacher in teachers) <= 4 * -(-7 // number)


def test_another_number_of_processes_shares_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        distill(Shouter(calls=3), SOURCES, tmp_path / "text")
    (tmp_path / "parts" / "part-00001.json").unlink()
    teachers = [Shouter(), Shouter()]
    assert distill_by(teachers, tmp_path / "text") == []
    assert lines(tmp_path / "text") == EXPECTED
    # Parts 1, 3, 4, 5 and 6 are missing, the last of one sentence: three and two of them.
    assert [teacher.translated for teacher in teachers] == [4 + 4 + 1, 4 + 4]


def test_machines_that_see_different_folders_are_told(tmp_path: Path) -> None:
    paths = [tmp_path / "here" / "text", tmp_path / "there" / "text"]
    (error,) = distill_by([Shouter(), Shouter()], paths[0], paths)
    assert "part-00001.json: missing" in error and "the same for all machines" in error
    assert not paths[0].exists()
