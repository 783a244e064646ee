"""The index of what each code often writes: from a run to its student, its export and a reader."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vqnmt.errors import VqnmtError
from vqnmt.exporting.folder import export
from vqnmt.spans import slot
from vqnmt.translate.code_index import (
    CODE_INDEX,
    index_codes,
    read_code_index,
    write_code_index,
)
from vqnmt.translate.loading import load_translator
from vqnmt.translate.translation import Translation


class Words:
    """Writes each word of the source by a code: its length."""

    on_long = "refuse"

    def translate(self, sentences: list[str], **_: Any) -> list[Translation]:
        assert self.on_long == "split"
        return [
            Translation(text, codes=[len(word) for word in text.split()], tokens=text.split())
            for text in sentences
        ]

    def code_pieces(self, translation: Translation) -> list[list[str]]:
        return [["▁" + token] for token in translation.tokens]


def test_texts_are_counted_by_code() -> None:
    words: Any = Words()
    index = index_codes(words, ["the cat", "the cats", "the dog", f"a {slot(0)}"])
    assert index == {1: [(" a", 1), (" ◌", 1)], 3: [(" the", 3), (" cat", 1), (" dog", 1)]} | {
        4: [(" cats", 1)]
    }
    assert words.on_long == "refuse"


def test_the_file_stays_small_and_comes_back_as_it_was(tmp_path: Path) -> None:
    index = {code: [(f" word{code}-{i}", 20 - i) for i in range(10)] for code in range(3)}
    write_code_index(tmp_path, index)
    assert read_code_index(tmp_path) == index
    large = {code: [(f" word{code}-{i}", 20 - i) for i in range(10)] for code in range(4096)}
    write_code_index(tmp_path, large)
    assert 50_000 < (tmp_path / CODE_INDEX).stat().st_size <= 200_000
    found = read_code_index(tmp_path)
    assert found.keys() == large.keys() and all(found[code] == large[code][:2] for code in large)


@pytest.mark.parametrize("content", ["{", "[]", '{"a": {}}', '{"1": ["b"]}', '{"1": {"a": "b"}}'])
def test_damage_is_named(tmp_path: Path, content: str) -> None:
    assert read_code_index(tmp_path) == {}
    (tmp_path / CODE_INDEX).write_text(content, "utf-8")
    with pytest.raises(VqnmtError, match=r"code_index\.json: is no index of codes"):
        read_code_index(tmp_path)


def test_a_run_leaves_it_beside_the_student_and_an_export_takes_it(
    finished_run: Any, toy_corpus: Path, tmp_path: Path
) -> None:
    student = finished_run.folder / "student"
    index = read_code_index(student)
    translator = load_translator(student, "cpu")
    assert translator.folder == student
    assert index and all(0 <= code < translator.codebook_size for code in index)
    # The same counted anew, in all sentences; a tenth of them are kept for validation and test.
    found = translator.translate((toy_corpus / "train.en").read_text("utf-8").splitlines())
    counts: Counter[tuple[int, str]] = Counter()
    for one in found:
        pieces = iter(translator.vocabulary.pieces(one.tokens))
        for code, width in zip(one.codes, one.spans, strict=True):
            counts[code, "".join(next(pieces) for _ in range(width)).replace("▁", " ")] += 1
    known = {(code, text): count for code, texts in index.items() for text, count in texts}
    (key, count), *_ = [one for one in counts.most_common() if one[0][1].strip()]
    assert 0.8 * count < known[key] < count and known.keys() <= counts.keys()
    copy = shutil.copytree(student, tmp_path / "student")
    export(copy, tmp_path / "export")
    assert read_code_index(tmp_path / "export") == index
    load_translator(tmp_path / "export")
    (copy / CODE_INDEX).unlink()
    export(copy, tmp_path / "export")
    assert read_code_index(tmp_path / "export") == {}, "it was another model's"
