"""The translator: lines in, lines out; loading and saving model folders."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import vqnmt
from tests.processes import run_processes
from vqnmt.checksums import CHECKSUMS
from vqnmt.data.normalization import clean_output
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.decode.language_model import LANGUAGE_MODEL, TrigramModel
from vqnmt.decode.settings import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.exporting.folder import export
from vqnmt.pipeline.observers import LANGUAGE_PENALTIES, LANGUAGE_WEIGHTS, PIECE_BONUSES
from vqnmt.progress import Progress
from vqnmt.translate.loading import load_translator
from vqnmt.translate.parts import split_row
from vqnmt.translate.pretrained import VqnmtForConditionalGeneration
from vqnmt.translate.pytorch import MODEL_FILES, Translator
from vqnmt.translate.rescoring import score_targets
from vqnmt.translate.translation import Translation

ROOT = Path(__file__).parent.parent.parent
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
    sources = finished_run.lines("corpus/test.test.en")[:12]
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


# --- candidates, codes, long sources ---------------------------------------------------------


def log_probability(model: TrigramModel, tokens: list[int]) -> float:
    whole = (1, 1, *tokens, 2)
    return sum(model.log_probability(*whole[i : i + 3]) for i in range(len(tokens) + 1))


def test_models_score_the_pieces_of_their_training_targets(finished_run) -> None:
    texts = {"teacher": "corpus/train.de", "student": "selected/train.de"}
    for name, lines in texts.items():
        translator = Translator.from_pretrained(finished_run.folder / name)
        rows = translator.vocabulary.encode(finished_run.lines(lines))
        written = translator.model.embedding.written  # type: ignore[union-attr]
        assert written == 1 + max(map(max, rows)) < len(translator.vocabulary)


def test_language_model_is_of_the_training_targets_and_helps_to_read(finished_run) -> None:
    student = Translator.from_pretrained(finished_run.folder / "student")
    model = student.language_model
    assert model.fusion.weight in LANGUAGE_WEIGHTS
    assert model.fusion.blank_penalty in LANGUAGE_PENALTIES
    assert model.fusion.piece_bonus in (0.0, *PIECE_BONUSES)
    rows = student.vocabulary.encode(finished_run.lines("selected/train.de"))
    forth, back = (sum(log_probability(model, row[::d]) for row in rows) for d in (1, -1))
    assert forth > 0.7 * back, "it has seen these sentences"
    sources = finished_run.lines("corpus/valid.en")
    found = student.translate(sources)
    alone = [student.translate([source])[0] for source in sources]
    assert [(t.tokens, t.spans) for t in found] == [(t.tokens, t.spans) for t in alone]
    best_path = student.translate(sources, language_model=False)
    likely = []
    for weight in (0.0, 0.5, 3.0):
        model.fusion = model.fusion._replace(weight=weight)
        found = student.translate(sources)
        for translation in found:
            assert len(translation.spans) == len(translation.codes)
            assert sum(translation.spans) == len(translation.tokens)
        likely.append(sum(log_probability(model, t.tokens) for t in found))
    assert likely[0] < likely[1] < likely[2]
    assert student.translate(sources, language_model=False) == best_path, "it asks no such model"
    student.language_model = None
    assert student.translate(sources) == best_path, "there is no other reading"


def test_codes_write_the_pieces_of_the_translation(finished_run) -> None:
    student = Translator.from_pretrained(finished_run.folder / "student")
    for translation in student.translate(finished_run.lines("corpus/valid.en")):
        written = student.code_pieces(translation)
        assert len(written) == len(translation.codes)
        pieces = [piece for span in written for piece in span]
        assert pieces == student.vocabulary.pieces(translation.tokens)
        assert clean_output("".join(pieces).replace("▁", " ")) == translation.text


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_n_best_stand_in_order(finished_run, name: str) -> None:
    translator = Translator.from_pretrained(finished_run.folder / name)
    sources = [*finished_run.lines("corpus/valid.en")[:4], ""]
    found = translator.n_best(sources, SearchSettings(candidates=3))
    assert found[-1] == [Translation("")]
    best = translator.translate(sources, beam=3)
    assert [row[0] for row in found] == best
    torch.manual_seed(0)
    drawn = translator.n_best(sources, SearchSettings(candidates=5, temperature=1.0))
    assert drawn[-1] == [Translation("")]
    for row, most in (*zip(found, [3] * 4, strict=False), *zip(drawn, [5] * 4, strict=False)):
        ranks = [(bool(translation.warnings), -translation.score) for translation in row]
        assert 0 < len({translation.text for translation in row}) == len(row) <= most
        assert ranks == sorted(ranks)
    assert len({t.text for row in drawn for t in row}) > 5


def test_a_teacher_chooses_among_candidates(finished_run) -> None:
    student, teacher = (
        Translator.from_pretrained(finished_run.folder / name) for name in ("student", "teacher")
    )
    sources = [*finished_run.lines("corpus/valid.en"), ""]
    found = student.n_best(sources, SearchSettings(candidates=4), teacher)
    chosen = student.translate(sources, candidates=4, rescorer=teacher)
    plain = student.n_best(sources, SearchSettings(candidates=4))
    assert chosen == [row[0] for row in found]
    assert [row[0].text for row in found] != [row[0].text for row in plain]
    for source, row, same in zip(sources[:-1], found[:-1], plain, strict=False):
        scores = [t.teacher_score for t in row]
        assert scores == sorted(scores, key=lambda s: -s)
        assert sorted(t.text for t in row) == sorted(t.text for t in same)
        # Alone, and by the model's own sum over the tokens of the text.
        ((alone,),) = teacher.score([source], [[row[0].text]])
        assert alone == pytest.approx(scores[0], abs=1e-4)
        (target,) = teacher.vocabulary.encode([row[0].text])
        (tokens,) = teacher.vocabulary.encode([source])
        ((total,),) = score_targets(teacher.model, torch.tensor([tokens]), [[target]])
        assert total / (len(target) + 1) == pytest.approx(scores[0], abs=1e-4)
    with pytest.raises(VqnmtError, match="only an autoregressive model can rescore"):
        teacher.translate(["bale"], rescorer=student)


def test_long_sources_are_split_where_asked(system) -> None:
    translator, beam = system
    translator.max_source_tokens, translator.on_long = 12, "split"
    words = ["bale", "gudo", "leka", "file", "bafi", "doka"]
    sentences = [" ".join(words * 5), "bale gudo", "", "x" * 50]
    found = texts(translator, sentences, beam)
    (row,) = translator.vocabulary.encode(sentences[:1])
    parts = split_row(row, translator.vocabulary.pieces(row), 12)
    assert len(parts) > 1 and max(map(len, parts)) <= 12
    singly = texts(translator, translator.vocabulary.decode(parts), beam)
    assert found[0] == " ".join(text for text in singly if text)
    assert found[1:3] == texts(translator, sentences[1:3], beam) and found[3]
    with Progress("translation", 4) as progress:
        translator.translate(sentences, progress=progress)
    assert progress.done == 3, "sentences, not parts; an empty one is not work"


def test_parts_end_behind_sentences_or_words() -> None:
    pieces = ["▁A", "b", ".", "▁C", "d", "▁e", "f", "g", "h", "i", "▁j"]
    row = list(range(len(pieces)))
    assert split_row(row, pieces, 4) == [[0, 1, 2], [3, 4], [5, 6, 7, 8], [9, 10]]
    assert split_row(row, pieces, 11) == [row]
    assert split_row(row, pieces, 1) == [[i] for i in row]
    assert split_row([], [], 3) == [[]]


def test_what_to_do_with_long_sources_must_be_known(finished_run) -> None:
    translator = Translator.from_pretrained(finished_run.folder / "student")
    with pytest.raises(VqnmtError, match="on_long is 'cut'; choose one of refuse, split"):
        Translator(translator.model, translator.vocabulary, "en", "de", on_long="cut")


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
    loaded = VqnmtForConditionalGeneration.from_pretrained(folder)
    assert isinstance(loaded.config.source_language, str) and not loaded.training
    translator = Translator.from_pretrained(folder)
    source, target = torch.tensor([[5, 6, 7]]), torch.tensor([[8, 9]])
    found = loaded(source, labels=target).loss
    assert torch.equal(found, translator.model(source, target).total)
    assert (loaded.config.source_language, loaded.config.target_language) == ("en", "de")
    assert loaded.config.max_source_tokens == translator.max_source_tokens == 60


def test_saved_again_it_is_the_same(finished_run, tmp_path: Path) -> None:
    for name in ("teacher", "student"):
        translator = Translator.from_pretrained(finished_run.folder / name)
        translator.save_pretrained(tmp_path / name, card="a card")
        further = [LANGUAGE_MODEL] if name == "student" else []
        files = ["README.md", CHECKSUMS, "config.json", *further, "model.safetensors", "spm.model"]
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == files
        for file in (*MODEL_FILES, *further, CHECKSUMS):
            saved = (tmp_path / name / file).read_bytes()
            assert saved == (finished_run.folder / name / file).read_bytes(), file
            assert (tmp_path / name / file).stat().st_mode & 0o444 == 0o444
    translator.language_model = None
    translator.save_pretrained(tmp_path / "student", card="a card")
    assert not (tmp_path / "student" / LANGUAGE_MODEL).exists(), "it was another model's"


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
        "weights": (VqnmtForConditionalGeneration, "save_pretrained"),
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


def invalid_piece(folder: Path) -> None:
    """Flip a bit so that a piece is no longer UTF-8."""
    model = (folder / "spm.model").read_bytes()
    place = model.index("▁".encode())
    (folder / "spm.model").write_bytes(model[:place] + b"\x80" + model[place + 1 :])


def other_vocabulary(folder: Path) -> None:
    Vocabulary.train([f"word {i} of many" for i in range(400)], 300).save(folder / "spm.model")


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
        (setting("encoder_layers", 2**31), r"config\.json: .* 2147483648 encoder layers: choose 0"),
        (setting("decoder_layers", -3), r"config\.json: .* -3 decoder layers: choose 0 to 1000"),
        (setting("residual_convolutions", 2**31), r"config\.json: .* residual convolutions"),
        (setting("decoder_layers", 2), r"model\.safetensors: does not fit config\.json"),
        (config(vocabulary_size=500), r"model\.safetensors: does not fit config\.json"),
        (config(vocabulary_size=0), r"config\.json: vocabulary_size is 0; it must be from 1 to"),
        (config(vocabulary_size={}), r"config\.json: vocabulary_size is \{\} .* of type int"),
        (setting("transformer", {"dim": 2**62}), r"config\.json: no model has these sizes"),
        (config(written_pieces=3), r"config\.json: written_pieces is 3; it must be .* above 3"),
        (config(written_pieces=20.5), r"config\.json: written_pieces is 20.5 .* of type int"),
        (config(written_pieces=9999), r"config\.json: written_pieces is 9999; .* at most"),
        (config(max_source_tokens=None), r"config\.json: max_source_tokens is None"),
        (config(source_language=["en"]), r"config\.json: source_language is \['en'\]"),
        (invalid_piece, r"spm\.model: the vocabulary is no sentencepiece model"),
        (other_vocabulary, r"spm\.model: has 300 pieces, but vocabulary_size .* is"),
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


def translate_in_fork(folder: Path, threads: int, again: bool, out: Path) -> None:
    """Translate by a model of this process in a child of it, which writes what comes of it."""
    torch.set_num_threads(threads)
    translator = load_translator(folder, threads=threads)
    expected = translator.translate(["bale gudo"])[0].text
    child = os.fork()
    if child == 0:
        signal.alarm(120)  # ends it where it waits
        try:
            translator = load_translator(folder, threads=threads) if again else translator
            out.write_text(str(translator.translate(["bale gudo"])[0].text == expected))
        except VqnmtError as error:
            out.write_text(str(error))
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def forked(folder: Path, threads: int, place: Path, again: bool = False) -> str:
    """What comes of a translation in a forked process; `place` gets its files."""
    out = place / "out"
    out.unlink(missing_ok=True)
    ((status, errors),) = run_processes(
        translate_in_fork, folder, threads, again, out, folder=place, number=1
    )
    assert status == 0, errors
    return out.read_text()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_is_refused_instead_of_waiting_for_ever(
    finished_run, tmp_path: Path
) -> None:
    """Also where it loads the model anew."""
    teacher = finished_run.folder / "teacher"
    for again in (False, True):
        message = forked(teacher, 2, tmp_path, again)
        assert "this process was forked from" in message and "torch.set_num_threads(1)" in message
    assert forked(teacher, 1, tmp_path) == "True"
    pytest.importorskip("ctranslate2")
    export(teacher, tmp_path / "teacher", "fp32")
    assert "this process was forked from" in forked(tmp_path / "teacher", 1, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_onnx_runtime_goes_on_in_a_forked_process(finished_run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    export(finished_run.folder / "student", tmp_path / "student", "fp32")
    assert forked(tmp_path / "student", 2, tmp_path) == "True"


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_codebook_is_not_rounded_with_the_rest(folder: Path, dtype: str) -> None:
    expected = Translator.from_pretrained(folder).model.quantizer.state_dict()
    assert any((value != value.bfloat16()).any() for value in expected.values())
    translator = Translator.from_pretrained(folder, dtype=dtype)
    kind = translator.model.begin.dtype
    assert kind == {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    for model in (
        translator.model,
        VqnmtForConditionalGeneration.from_pretrained(folder, dtype=kind).model,
    ):
        assert model.begin.dtype == kind
        for key, value in model.quantizer.state_dict().items():
            assert value.dtype == expected[key].dtype and torch.equal(value, expected[key])
    assert len(texts(translator, ["bale gudo"])) == 1


def test_unknown_device_is_refused(folder: Path) -> None:
    with pytest.raises(VqnmtError, match="device is 'abacus', which PyTorch cannot use here"):
        Translator.from_pretrained(folder, device="abacus")
    with pytest.raises(VqnmtError, match="device is 'meta', which"):
        Translator.from_pretrained(folder, device="meta")
