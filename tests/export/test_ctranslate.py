"""Our autoregressive model in CTranslate2: the same weights give the same translations."""

from pathlib import Path

import pytest

pytest.importorskip("ctranslate2")

from vqnmt.decoding import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.export.folder import export_model
from vqnmt.translation import load_translator
from vqnmt.translator import Translator


@pytest.fixture(scope="module")
def exports(finished_run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ctranslate2")
    for precision in ("fp32", "int8"):
        export_model(finished_run.folder / "teacher", folder / precision, precision)
    return {precision: folder / precision for precision in ("fp32", "int8")}


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
    per_token = [t.score / (len(t.tokens) + 1) for t in (first, *others)]
    assert len(others) == 2 and per_token == sorted(per_token, reverse=True)
    with pytest.raises(VqnmtError, match="temperature is for models that PyTorch runs"):
        translator.translate(["bale"], temperature=1.0)


def test_a_damaged_model_is_refused(exports, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(exports["int8"], folder)
    content = (folder / "ctranslate2" / "model.bin").read_bytes()
    (folder / "ctranslate2" / "model.bin").write_bytes(content[:1000])
    with pytest.raises(VqnmtError, match=r"ctranslate2: cannot be loaded"):
        load_translator(folder)
