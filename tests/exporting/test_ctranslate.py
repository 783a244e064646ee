"""Our autoregressive model in CTranslate2: the same weights give the same translations."""

import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("ctranslate2")

from vqnmt.checksums import CHECKSUMS
from vqnmt.decode.settings import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.exporting.folder import export
from vqnmt.translate.loading import load_translator
from vqnmt.translate.pytorch import Translator


@pytest.fixture(scope="module")
def exports(finished_run, export_all) -> dict[str, Path]:
    """Return exports of the toy teacher; tests must not change them."""
    return export_all(finished_run.folder / "teacher")


def test_greedy_translations_are_ours(finished_run, exports) -> None:
    sources = [*finished_run.lines("corpus/test.test.en"), "", "日本語 \U0001f600 \x00"]
    expected = Translator.from_pretrained(finished_run.folder / "teacher").translate(sources)
    translator = load_translator(exports["fp32"], threads=1)
    for found in (
        translator.translate(sources),
        [translator.translate([source])[0] for source in sources],
    ):
        assert [t.tokens for t in found] == [t.tokens for t in expected]
        assert [t.text for t in found] == [t.text for t in expected]
        ended = [t for t in expected if t.text and len(t.tokens) < 20]
        assert len(ended) > 10
        for one, other in zip(found, expected, strict=True):
            if other in ended:
                assert one.score == pytest.approx(other.score, rel=0.01)


def test_beam_finds_translations_as_likely_as_ours(finished_run, exports) -> None:
    sources = finished_run.lines("corpus/test.test.en")
    ours = Translator.from_pretrained(finished_run.folder / "teacher").translate(sources, beam=4)
    theirs = load_translator(exports["fp32"], threads=1).translate(sources, beam=4)
    assert sum(a.text == b.text for a, b in zip(ours, theirs, strict=True)) > 0.8 * len(sources)


def test_candidates_stand_best_first(exports) -> None:
    translator = load_translator(exports["int8"], threads=1)
    ((first, *others),) = translator.n_best(["bale gudo"], SearchSettings(candidates=3))
    scores = [t.score for t in (first, *others)]
    assert len(others) == 2 and scores == sorted(scores, reverse=True)
    with pytest.raises(VqnmtError, match="temperature is for models that PyTorch runs"):
        translator.translate(["bale"], temperature=1.0)


# --- rescoring -------------------------------------------------------------------------------


def test_scores_are_those_of_pytorch(finished_run, exports) -> None:
    sources = ["bale gudo", "leka file bafi doka bale"]
    candidates = [["Gudo", "", "gudo Bale", "Gudo", "\U0001f600 no such word"], ["Leka", "file"]]
    teacher = Translator.from_pretrained(finished_run.folder / "teacher")
    assert teacher.model.embedding.written < len(teacher.vocabulary)  # type: ignore
    rescorer = load_translator(exports["fp32"], threads=1)
    expected = teacher.score(sources, candidates)
    for row, wanted in zip(rescorer.score(sources, candidates), expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-4)
    for source, texts, wanted in zip(sources, candidates, expected, strict=True):
        assert rescorer.score([source], [texts])[0] == pytest.approx(wanted, abs=1e-4)
    assert rescorer.score([], []) == [] and rescorer.score(["bale"], [[]]) == [[]]
    rounded = load_translator(exports["int8"], threads=1).score(sources, candidates)
    for row, wanted in zip(rounded, expected, strict=True):
        assert row == pytest.approx(wanted, rel=0.1) and row != wanted


def test_an_exported_teacher_chooses_as_the_teacher_does(
    finished_run, exports, tmp_path: Path, script
) -> None:
    pytest.importorskip("onnxruntime")
    sources = [*finished_run.lines("corpus/test.test.en")[:12], ""]
    student, teacher = (finished_run.folder / name for name in ("student", "teacher"))
    export(student, tmp_path / "student", "fp32")
    expected = Translator.from_pretrained(student).n_best(
        sources, SearchSettings(candidates=4), Translator.from_pretrained(teacher)
    )
    translator = load_translator(tmp_path / "student", threads=1)
    plain = translator.translate(sources, candidates=4)
    assert any(a.text != b[0].text for a, b in zip(plain, expected, strict=True))
    for rescorer in (
        load_translator(exports["fp32"], threads=1),
        Translator.from_pretrained(teacher),
    ):
        chosen = translator.translate(sources, candidates=4, rescorer=rescorer)
        for one, row in zip(chosen, expected, strict=True):
            assert one.text == row[0].text
            assert one.teacher_score == pytest.approx(row[0].teacher_score, abs=1e-4)
    outcome = script(
        "translate",
        "--model",
        tmp_path / "student",
        "--quiet",
        "--candidates",
        4,
        "--rescore",
        exports["fp32"],
        stdin="".join(f"{source}\n" for source in sources).encode(),
    )
    assert outcome.status == 0, outcome.err
    assert outcome.out.splitlines() == [row[0].text for row in expected]


def test_sources_and_candidates_too_long_for_the_rescorer(exports) -> None:
    translator = load_translator(exports["fp32"], threads=1)
    with pytest.raises(VqnmtError, match=r"^a source has .* the model takes 60: split it"):
        translator.score(["bale " * 70], [["Gudo"]])
    ((longest, short),) = translator.score(["bale"], [["bale " * 500, "Gudo"]])
    assert longest == -math.inf < short


def test_a_damaged_model_is_refused(exports, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(exports["int8"], folder)
    (folder / CHECKSUMS).unlink()
    content = (folder / "ctranslate2" / "model.bin").read_bytes()
    (folder / "ctranslate2" / "model.bin").write_bytes(content[:1000])
    with pytest.raises(VqnmtError, match=r"ctranslate2: cannot be loaded"):
        load_translator(folder)


def test_pytorch_keeps_its_number_of_threads(finished_run, tmp_path: Path) -> None:
    export(finished_run.folder / "teacher", tmp_path / "export", "fp32")
    before = torch.get_num_threads()
    translator = load_translator(tmp_path / "export", threads=before + 1)
    translator.translate(["bale gudo"])
    assert torch.get_num_threads() == before
