"""vqnmt from Python: its names, calling a translator, n-best lists, training and exporting."""

import subprocess
import sys
from pathlib import Path

import pytest

import vqnmt
from vqnmt.decode.settings import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.translate.translation import Translation

TEXTS = ["bale gudo", "", "leka file bafi dofi"]


@pytest.fixture(scope="module")
def translator(finished_run) -> vqnmt.Translator:
    return vqnmt.load_translator(finished_run.folder / "student")


def test_a_string_gives_one_translation_and_a_list_a_list(translator) -> None:
    found = translator(TEXTS)
    assert [one.text for one in found] == [one.text for one in translator.translate(TEXTS)]
    one = translator(TEXTS[0])
    assert isinstance(one, Translation) and one == found[0]
    assert str(one) == one.text and f"{one}" == one.text
    assert translator(text for text in TEXTS) == found
    assert translator("") == Translation("") and translator([]) == []
    assert translator(TEXTS[0], beam=2) == translator.translate(TEXTS[:1], beam=2)[0]


@pytest.mark.parametrize("text", [None, 3, b"bytes", ["a", None], [["a"]]])
def test_what_is_no_text_is_refused_in_one_sentence(translator, text: object) -> None:
    with pytest.raises(VqnmtError, match=r"^text(\[\d\])? is .* of type .*: give (a )?string"):
        translator(text)


@pytest.mark.parametrize("place", [3, b"folder", [], ""])
def test_what_is_no_path_is_refused_in_one_sentence(place: object) -> None:
    for given, call in (
        ("folder", lambda: vqnmt.load_translator(place)),
        ("folder", lambda: vqnmt.Translator.from_pretrained(place)),
        ("model", lambda: vqnmt.export(place, "new")),
        ("folder", lambda: vqnmt.export("nosuch", place)),
    ):
        with pytest.raises(VqnmtError, match=rf"^{given} is .* \(\w+\): give a path"):
            call()
    with pytest.raises(VqnmtError, match="is exported, and this needs what it was exported from"):
        vqnmt.Translator.from_pretrained(vqnmt.load_translator().folder)
    for words in ((3,), (None,), ({"seed": 1},)):
        with pytest.raises(VqnmtError, match="is no override: give"):
            vqnmt.train(*words)
    with pytest.raises(VqnmtError, match="run is of type object: give text, a number or a list"):
        vqnmt.train(run=object())


def test_options_of_the_wrong_kind_are_refused_in_one_sentence(translator) -> None:
    for options, fault in (
        ({"rescorer": "runs/x"}, "rescorer is 'runs/x' of type str: give an object that has score"),
        ({"progress": True}, "progress is True of type bool: give an object that has update"),
        ({"settings": 3}, "settings is 3"),
    ):
        with pytest.raises(VqnmtError, match=fault):
            translator.n_best(["bale"], **options)
    with pytest.raises(VqnmtError, match="translation is 'bale' of type str"):
        translator.code_pieces("bale")
    with pytest.raises(VqnmtError, match=r"formality is \['formal'\]; choose one of"):
        translator.formality = ["formal"]
    with pytest.raises(VqnmtError, match=r"device is \['cpu'\], which PyTorch cannot use"):
        vqnmt.load_translator(translator.folder, device=["cpu"])


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("on_long", "cut", "on_long is 'cut'; choose one of refuse, split"),
        ("span_patterns", "a+", r"span_patterns is 'a\+': give a list of regular expressions"),
        ("span_patterns", ["("], "which is no regular expression"),
        ("span_patterns", [3], "which is no regular expression"),
    ],
)
def test_wrong_attributes_are_told_at_the_next_translation(
    translator, monkeypatch: pytest.MonkeyPatch, name: str, value: object, fault: str
) -> None:
    monkeypatch.setattr(translator, name, value)
    with pytest.raises(VqnmtError, match=fault):
        translator("bale")


def test_a_translator_says_what_it_is(translator, finished_run) -> None:
    size = len(translator.vocabulary)
    about = f"en to de, LatentTransformer in PyTorch on cpu, {size} pieces"
    assert repr(translator) == f"<Translator: {about}>"
    shipped = repr(vqnmt.load_translator())
    assert shipped.startswith("<OnnxTranslator: en to de, ONNX Runtime, int8, ")


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_several_translations_differ_and_fall_by_their_score(finished_run, model: str) -> None:
    translator = vqnmt.load_translator(finished_run.folder / model)
    found = translator.n_best(TEXTS, num_return_sequences=4)
    assert len(found) == len(TEXTS) and found[1] == [Translation("")]
    assert max(map(len, found)) > 1
    for row in found:
        assert 1 <= len(row) <= 4 and len({one.text for one in row}) == len(row)
        scores = [one.score for one in row]
        assert scores == sorted(scores, reverse=True)
    with pytest.raises(VqnmtError, match="num_return_sequences is 0"):
        translator.n_best(TEXTS, num_return_sequences=0)
    with pytest.raises(VqnmtError, match="num_return_sequences is 2 beside settings: give it as"):
        translator.n_best(TEXTS, SearchSettings(), num_return_sequences=2)


def test_the_score_of_a_split_line_is_the_mean_over_its_symbols(finished_run) -> None:
    """So that it is comparable with that of a short line."""
    teacher = vqnmt.load_translator(finished_run.folder / "teacher")
    teacher.on_long = "split"
    line = " ".join(["leka file bafi dofi."] * 20)
    with_parts = teacher(line)
    _, _, rows = teacher._fit([teacher.cut(line)], 1)
    assert len(rows) > 1
    parts = [teacher.find([row], SearchSettings())[0][0] for row in rows]
    total = sum(part.score * (len(part.tokens) + 1) for part in parts)
    assert with_parts.score == pytest.approx(total / sum(len(p.tokens) + 1 for p in parts))


def test_a_missing_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(VqnmtError, match=r"en-de needs onnxruntime: pip install onnxruntime$"):
        vqnmt.load_translator()


def test_names_are_loaded_when_they_are_asked_for() -> None:
    code = (
        "import sys, vqnmt\n"
        "import vqnmt.errors\n"
        "assert set(dir(vqnmt)) == {*vqnmt.__all__, '__version__', 'errors'}, dir(vqnmt)\n"
        "loaded = {'numpy', 'torch', 'transformers', 'onnxruntime'} & set(sys.modules)\n"
        "vqnmt.load_translator, vqnmt.VqnmtError, vqnmt.Translation\n"
        "loaded |= {'torch', 'transformers', 'hydra'} & set(sys.modules)\n"
        "sys.exit(', '.join(loaded) or None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(getattr(vqnmt, name).__doc__ for name in vqnmt.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nosuch'"):
        vqnmt.nosuch  # noqa: B018


def test_training_and_exporting_are_those_of_the_commands(finished_run, tmp_path: Path) -> None:
    """On a finished run nothing is trained; what it returns can be loaded and exported."""
    pytest.importorskip("onnx")
    folder = vqnmt.train(*finished_run.overrides, run=finished_run.folder)
    assert folder == finished_run.folder / "student"
    vqnmt.export(folder, tmp_path / "exported")
    expected = [one.text for one in vqnmt.load_translator(folder)(TEXTS)]
    assert [one.text for one in vqnmt.load_translator(tmp_path / "exported")(TEXTS)] == expected
    with pytest.raises(VqnmtError, match="seed is -1"):
        vqnmt.train(seed=-1)
    with pytest.raises(VqnmtError, match="nosuch is not a known key"):
        vqnmt.train(nosuch=None)
