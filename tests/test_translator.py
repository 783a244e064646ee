"""The translator: lines in, lines out; loading and saving model folders."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import vqnmt
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.errors import VqnmtError
from vqnmt.models.pretrained import TranslationModel
from vqnmt.progress import Progress
from vqnmt.translator import MODEL_FILES, Translator

ROOT = Path(__file__).parent.parent
SYSTEMS = [("teacher", 1), ("teacher", 4), ("student", 1), ("student", 3)]


@pytest.fixture(params=SYSTEMS, ids=lambda system: f"{system[0]}-beam{system[1]}")
def system(request: pytest.FixtureRequest, finished_run) -> tuple[Translator, int]:
    model, beam = request.param
    return Translator.from_pretrained(finished_run.folder / model, device="cpu"), beam


@pytest.fixture
def folder(finished_run, tmp_path: Path) -> Path:
    """Return a copy of the student's folder, to be damaged."""
    copy = tmp_path / "model"
    copy.mkdir()
    for name in (*MODEL_FILES, "README.md"):
        shutil.copy(finished_run.folder / "student" / name, copy / name)
    return copy


def texts(translator: Translator, sentences: list[str], beam: int = 1) -> list[str]:
    return [translation.text for translation in translator.translate(sentences, beam=beam)]


# --- translation -----------------------------------------------------------------------------


def test_batch_equals_one_by_one_in_order(system, finished_run) -> None:
    translator, beam = system
    sources = finished_run.lines("corpus/test.test.en")
    together = texts(translator, sources, beam)
    assert len(set(together)) > 3, "a test that all translations alike would pass"
    assert together == [texts(translator, [source], beam)[0] for source in sources]
    assert together[::-1] == texts(translator, sources[::-1], beam)
    translator.batch_tokens = 16
    assert together == texts(translator, sources, beam)


def test_translation_has_score_and_codes(finished_run) -> None:
    source = finished_run.lines("corpus/valid.en")[:1]
    teacher, student = (
        vqnmt.Translator.from_pretrained(finished_run.folder / name)
        for name in ("teacher", "student")
    )
    (by_teacher,), (by_student,) = teacher.translate(source), student.translate(source)
    assert by_teacher.score < 0 and by_teacher.codes == []
    assert by_student.score < 0 and by_student.codes
    assert all(0 <= code < 16 for code in by_student.codes)


@pytest.mark.parametrize("sentences", [[], [""], ["", " ", "\t", "\r", "\u2028"]])
def test_empty_stays_empty(system, sentences: list[str]) -> None:
    translator, beam = system
    assert texts(translator, sentences, beam) == [""] * len(sentences)


def test_line_end_and_spaces_do_not_matter(system) -> None:
    translator, beam = system
    found = texts(translator, ["bale gudo", "bale gudo\r", "  bale  gudo "], beam)
    assert len(set(found)) == 1


def test_unknown_characters_are_translated_too(system) -> None:
    translator, beam = system
    assert len(texts(translator, ["日本語 \U0001f600 \x00", "ä"], beam)) == 2


def test_too_long_source_is_counted_not_cut(system) -> None:
    translator, beam = system
    long = "x" * 61
    with pytest.raises(VqnmtError, match=r"^line 12: .* 6\d tokens .* takes 60 \(2 such lines"):
        translator.translate(["bale", "", long, "gudo", long], beam=beam, first_line=10)
    assert len(texts(translator, ["x" * 58], beam)) == 1


def test_beam_below_one_is_refused(system) -> None:
    with pytest.raises(VqnmtError, match="beam is 0"):
        system[0].translate(["bale"], beam=0)


def test_progress_counts_sentences(system) -> None:
    translator, _ = system
    with Progress("translation", 2) as progress:
        translator.translate(["bale", "gudo"], progress=progress)
    assert progress.done == 2


def test_reconstruction_is_by_the_codes_of_the_target(finished_run) -> None:
    student = Translator.from_pretrained(finished_run.folder / "student")
    sources, targets = (finished_run.lines(f"corpus/valid.{code}") for code in ("en", "de"))
    together = student.reconstruct(sources, targets)
    assert together == [
        student.reconstruct([s], [t])[0] for s, t in zip(sources, targets, strict=True)
    ]


# --- loading and saving ----------------------------------------------------------------------


def test_importing_vqnmt_is_cheap_and_gives_the_translator() -> None:
    assert vqnmt.Translator is Translator
    code = "import sys, vqnmt; assert 'torch' not in sys.modules; print(vqnmt.__version__)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    with pytest.raises(AttributeError, match="no attribute 'Translater'"):
        _ = vqnmt.Translater


def test_transformers_door(finished_run) -> None:
    """The folder loads as any `PreTrainedModel`, and gives the same training losses."""
    folder = finished_run.folder / "teacher"
    loaded = TranslationModel.from_pretrained(folder)
    assert isinstance(loaded.config.source_language, str) and not loaded.training
    translator = Translator.from_pretrained(folder)
    source, target = torch.tensor([[5, 6, 7]]), torch.tensor([[8, 9]])
    assert torch.equal(loaded(source, target).total, translator.model(source, target).total)
    assert (loaded.config.source_language, loaded.config.target_language) == ("en", "de")
    assert loaded.config.max_source_tokens == translator.max_source_tokens == 60


def test_saved_again_it_is_the_same(finished_run, tmp_path: Path) -> None:
    for name in ("teacher", "student"):
        translator = Translator.from_pretrained(finished_run.folder / name)
        translator.save_pretrained(tmp_path / name, card="a card")
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == [
            *("README.md", "config.json", "model.safetensors", "spm.model")
        ]
        for file in MODEL_FILES:
            saved = (tmp_path / name / file).read_bytes()
            assert saved == (finished_run.folder / name / file).read_bytes(), file


@pytest.mark.parametrize("place", ["weights", "vocabulary", "card"])
def test_full_disk_keeps_the_previous_model(
    folder: Path, finished_run, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = Translator.from_pretrained(finished_run.folder / "teacher")

    def full(*_: object, **__: object) -> None:
        if place == "weights":
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = {
        "weights": (TranslationModel, "save_pretrained"),
        "vocabulary": (Vocabulary, "save"),
        "card": (Path, "write_text"),
    }[place]
    with monkeypatch.context() as patch:
        patch.setattr(*target, full)
        with pytest.raises(VqnmtError, match=r"model: the model cannot be saved .*No space left"):
            other.save_pretrained(folder, card="another card")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    Translator.from_pretrained(folder)


def cut(name: str, length: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:length])

    return damage


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.code_output.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_another_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.other"] = torch.zeros(1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def config(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(values))

    return damage


def setting(key: str, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        values["settings"][key] = value
        (folder / "config.json").write_text(json.dumps(values))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "model: no such model folder"),
        (lambda f: (f / "config.json").unlink(), r"config\.json: missing.*incomplete"),
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: missing.*incomplete"),
        (lambda f: (f / "spm.model").unlink(), r"spm\.model: missing.*incomplete"),
        (cut("config.json", 40), r"config\.json: not the config of a vqnmt model"),
        (cut("model.safetensors", 0), r"model\.safetensors: .*damaged.*copy the folder again"),
        (cut("model.safetensors", 50), r"model\.safetensors: .*damaged"),
        (cut("model.safetensors", 9000), r"model\.safetensors: .*damaged"),
        (cut("spm.model", 0), r"spm\.model: the vocabulary is no sentencepiece model"),
        (without_a_weight, r"model\.safetensors: .*missing weights: 1, .*code_output\.bias"),
        (with_another_weight, r"model\.safetensors: .*unexpected weights: 1, .*other"),
        (config(format=999), r"config\.json: .*999.*this version reads"),
        (config(model_type="t5"), r"config\.json: .*'t5'.*this version reads"),
        (config(architecture="recurrent"), r"config\.json: .*architecture is 'recurrent'"),
        (setting("decoder_layer", 3), r"config\.json: .*decoder_layer is not a known key"),
        (setting("decoder_layers", 2), r"model\.safetensors: does not fit config\.json"),
        (config(vocabulary_size=500), r"model\.safetensors: does not fit config\.json"),
    ],
)
def test_damaged_folder_is_refused(
    folder: Path, capfd: pytest.CaptureFixture[str], damage: Callable, message: str
) -> None:
    damage(folder)
    with pytest.raises(VqnmtError, match=message) as caught:
        Translator.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == "", "one sentence, not a library's report beside it"


def test_unknown_device_is_refused(folder: Path) -> None:
    with pytest.raises(VqnmtError, match="device abacus cannot be used"):
        Translator.from_pretrained(folder, device="abacus")
