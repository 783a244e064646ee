"""The exported graph against the PyTorch model, and exported folders without PyTorch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from tests.quantizers.fitting import fitting_config
from vqnmt.checksums import CHECKSUMS
from vqnmt.decode.language_model import FusionWeights, TrigramModel
from vqnmt.decode.settings import ReadingSettings, SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.exporting.folder import export
from vqnmt.exporting.graph import quantize_rows
from vqnmt.exporting.latent_graph import latent_graph
from vqnmt.layers import TransformerConfig
from vqnmt.models import LatentConfig, LatentTransformer
from vqnmt.translate.exported import (
    FORMAT,
    LatentExportConfig,
    OnnxTranslator,
    onnx_session,
)
from vqnmt.translate.folder import EXPORTED
from vqnmt.translate.generation import LatentTranslation, find_translations
from vqnmt.translate.loading import load_translator
from vqnmt.translate.pytorch import Translator
from vqnmt.translate.translation import Translation

ROOT = Path(__file__).parent.parent.parent
PRETRAINED = ROOT / "pretrained" / "en-de"
VOCABULARY, LONGEST = 150, 14
SIZE = TransformerConfig(dim=16, feedforward=24, heads=2, dropout=0.1)
VARIANTS = [
    {},
    {"joint_end": False},
    {"compression": 0, "predictor_layers": 2},
    {"compression": 1, "source_copy": False, "encoder_layers": 2},
    {"compression": 2, "causal_decoder": True, "upsampling": 3},
    {"compression": 2, "output": "cross_entropy", "upsampling": 1},
    {"compression": 1, "quantizer": {"name": "product", "codebook_size": 16}, "joint_end": False},
    {"compression": 1, "quantizer": {"name": "semhash", "codebook_size": 16}},
    {"compression": 2, "written": 101},
    {"compression": 3, "residual_convolutions": 0},
]


def build(
    seed: int = 0, quantizer: dict | None = None, written: int = VOCABULARY, **settings
) -> LatentTransformer:
    """Build a model with random weights and norms, in evaluation mode."""
    torch.manual_seed(seed)
    bottleneck = {"codebook_size": 8, "initialisation": "normal"} | (quantizer or {})
    defaults = {"transformer": SIZE, "encoder_layers": 1, "decoder_layers": 2, "compression": 3}
    defaults["residual_convolutions"] = 3
    config = LatentConfig(quantizer=fitting_config(**bottleneck), **(defaults | settings))
    model = LatentTransformer(config, VOCABULARY).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # norms and biases are no ones and zeros once trained
            torch.nn.init.normal_(parameter, mean=0.2, std=0.5)
    model.embedding.written = written
    model.blank_penalty.fill_(0.7)
    model.repeatable.copy_(torch.rand(VOCABULARY) < 0.5)
    if model.config.joint_end:
        end_half_of_the_sentences_at_their_first_code(model)
    return model


@torch.no_grad()
def end_half_of_the_sentences_at_their_first_code(model: LatentTransformer) -> None:
    state = model.predictor.start(*model.encode(padded(random_rows())))
    logits = model.step(torch.zeros(len(random_rows()), dtype=torch.int64), state)
    going, last = (half.max(dim=1).values for half in logits.chunk(2, dim=1))
    margins = (last - going).sort().values
    model.code_output.bias[model.end_of_codes :] -= margins[len(margins) // 2 - 1 :][:2].mean()


def trigrams(model: LatentTransformer) -> TrigramModel | None:
    """Return the language model that `model` is read with."""
    if model.config.output != "ctc":
        return None
    text = np.random.default_rng(0).integers(4, VOCABULARY, size=4000)
    found = TrigramModel.count(text, np.arange(0, 4001, 10), VOCABULARY)
    found.fusion = FusionWeights(0.5, 0.4, 0.3)
    return found


def engine(model: LatentTransformer, int8: bool = False) -> OnnxTranslator:
    proto = latent_graph(model, LONGEST, int8).SerializeToString()
    config = LatentExportConfig(
        model_type=EXPORTED,
        format=FORMAT,
        precision="int8" if int8 else "fp32",
        source_language="en",
        target_language="de",
        max_source_tokens=LONGEST,
        compression=model.config.compression,
        positions_per_code=2**model.config.compression * model.config.upsampling,
        output=model.config.output,
        joint_end=model.config.joint_end,
        blank_penalty=float(model.blank_penalty),
        repeatable=model.repeatable.nonzero()[:, 0].tolist(),
    )
    session = onnx_session(proto, 1)
    return OnnxTranslator(session, config, None, trigrams(model))  # type: ignore[arg-type]


def random_rows() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(4, VOCABULARY, size=1 + i % LONGEST).tolist() for i in range(20)]


def padded(rows: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])


@pytest.mark.parametrize("language_model", [False, True])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_graph_translates_as_the_model_does(variant, language_model: bool) -> None:
    model, rows = build(**variant), random_rows()
    exported = engine(model)
    settings = SearchSettings(language_model=language_model)
    expected = [
        found[0] for found in find_translations(model, padded(rows), settings, trigrams(model))
    ]
    assert len({len(found.codes.symbols) for found in expected}) > 1
    assert sum(len(found.tokens) for found in expected) > 20
    together = exported.find(rows, settings)
    alone = [exported.find([row], settings)[0] for row in rows]
    for found in (together, alone):
        for (translation,), (codes, tokens, spans) in zip(found, expected, strict=True):
            assert translation.codes == codes.symbols
            assert translation.tokens == tokens
            assert translation.spans == spans
            assert translation.score == pytest.approx(codes.score(1.0), rel=1e-4)


def test_the_graph_is_read_as_widely_as_the_model() -> None:
    model, rows, read = build(), random_rows(), []
    exported = engine(model)
    for reading in (ReadingSettings(), ReadingSettings(beam=8, pieces=16, least_likely=0.001)):
        settings = SearchSettings(reading=reading)
        expected = find_translations(model, padded(rows), settings, trigrams(model))
        found = exported.find(rows, settings)
        same_candidates(found, expected)
        read.append([translations[0].tokens for translations in found])
    assert read[0] != read[1]
    few = ReadingSettings(pieces=VOCABULARY + 1)
    assert len(exported.find(rows, SearchSettings(reading=few))) == len(rows)


SEARCHES = [
    SearchSettings(beam=3),
    SearchSettings(candidates=4),
    SearchSettings(beam=6, candidates=2, length_penalty=0.0, language_model=False),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_graph_searches_as_the_model_does(variant) -> None:
    model, rows = build(**variant), random_rows()
    exported = engine(model)
    for settings in SEARCHES:
        expected = find_translations(model, padded(rows), settings, trigrams(model))
        assert {len(row) for row in expected} == {settings.candidates}
        penalty = settings.length_penalty
        same_candidates(exported.find(rows, settings), expected, penalty)
        for row, wanted in list(zip(rows, expected, strict=True))[::5]:
            same_candidates(exported.find([row], settings), [wanted], penalty)


def same_candidates(
    found: list[list[Translation]],
    expected: list[list[LatentTranslation]],
    length_penalty: float = 1.0,
) -> None:
    for translations, candidates in zip(found, expected, strict=True):
        for translation, (codes, tokens, spans) in zip(translations, candidates, strict=True):
            assert translation.codes == codes.symbols
            assert translation.tokens == tokens
            assert translation.spans == spans
            assert translation.score == pytest.approx(
                codes.score(length_penalty), rel=1e-5, abs=1e-4
            )


@pytest.mark.parametrize("joint", [True, False])
def test_no_more_candidates_than_there_are_code_sequences(joint: bool) -> None:
    model, rows = build(quantizer={"codebook_size": 2}, joint_end=joint), [[5], [6, 7, 8, 9]]
    settings = SearchSettings(candidates=12)
    expected = find_translations(model, padded(rows), settings, trigrams(model))
    # Up to 2 codes of 2 kinds, 6 sequences, for the first; up to 3 codes, 14, for the second. With
    # an end of its own there is also the sequence without codes.
    exist = 6 if joint else 7
    assert [len(row) for row in expected] == [exist, 12]
    assert len({tuple(codes.symbols) for codes, *_ in expected[0]}) == exist
    exported = engine(model)
    same_candidates(exported.find(12 * rows, settings), 12 * expected)  # two rows at a time
    same_candidates(exported.find(rows[:1], settings), expected[:1])


def test_a_sentence_without_codes_has_its_translation_too() -> None:
    model = build(joint_end=False)
    with torch.no_grad():
        model.code_output.bias[model.end_of_codes] = 100.0
    rows = [[5, 6], [7]]
    found = find_translations(model, padded(rows), SearchSettings(), trigrams(model))
    expected = [candidates[0] for candidates in found]
    for batch in ([rows[0]], rows):
        for (found,), wanted in zip(
            engine(model).find(batch, SearchSettings()), expected, strict=False
        ):
            assert (found.codes, found.spans, found.tokens) == ([], [], wanted.tokens)


def test_eight_bits_round_little() -> None:
    weight = np.random.default_rng(0).standard_normal((7, 33)).astype(np.float32)
    weight[3] = 0
    rounded, scale = quantize_rows(weight)
    assert rounded.dtype == np.int8 and np.abs(rounded).max() == 127
    error = np.abs(rounded * scale[:, None] - weight)
    assert (error <= scale[:, None] / 2 + 1e-7).all()


def test_eight_bits_change_scores_little() -> None:
    model, rows = build(), random_rows()
    exact, rounded = (engine(model, int8).find(rows, SearchSettings()) for int8 in (False, True))
    differences = [abs(a[0].score - b[0].score) for a, b in zip(exact, rounded, strict=True)]
    assert 0 < np.median(differences) < 0.2
    assert sum(a[0].codes == b[0].codes for a, b in zip(exact, rounded, strict=True)) >= 15


def test_a_codebook_too_large_for_a_table_is_refused() -> None:
    model = build()
    model.quantizer.codebook_size = 1 << 17
    with pytest.raises(VqnmtError, match="131072 codes"):
        latent_graph(model, LONGEST, False)


# --- folders ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exports(finished_run, export_all) -> dict[str, Path]:
    """Return exports of the toy student; tests must not change them."""
    return export_all(finished_run.folder / "student")


def test_the_whole_test_set_is_translated_alike(finished_run, exports) -> None:
    sources = [*finished_run.lines("corpus/test.test.en"), "", "日本語 \U0001f600 \x00"]
    expected = Translator.from_pretrained(finished_run.folder / "student").translate(sources)
    translator = load_translator(exports["fp32"], threads=1)
    for found in (
        translator.translate(sources),
        [translator.translate([source])[0] for source in sources],
    ):
        for one, other in zip(found, expected, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-3)
            one.score = other.score
        assert found == expected
    rounded = load_translator(exports["int8"], threads=1).translate(sources)
    # Half at least: a model that has hardly been trained has many near ties.
    alike = sum(a.text == b.text for a, b in zip(rounded, expected, strict=True))
    assert alike > 0.5 * len(sources)
    sizes = [(exports[p] / "model.onnx").stat().st_size for p in ("fp32", "int8")]
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.parametrize("candidates", [1, 3])
def test_in_eight_bits_a_line_does_not_depend_on_its_neighbours(candidates: int) -> None:
    """Nor on padding, nor on the number of threads: to the last bit of the score."""
    rows, settings = random_rows(), SearchSettings(candidates=candidates)
    exported = engine(build(), int8=True)
    alone = [exported.find([row], settings)[0] for row in rows]
    assert exported.find(rows, settings) == alone
    assert exported.find(rows[::-1], settings) == alone[::-1]
    exported._threads = 3
    assert exported.find(rows, settings) == alone


def test_the_model_that_ships_has_one_translation_for_a_line() -> None:
    sentences = [
        "Turn off the light in the kitchen.",
        "Where is the train station?",
        "The temperature in the bedroom is too high, so the window has been opened.",
        "Error",
        "Tom said that he would not come to the party with Mary.",
    ] * 2
    together = load_translator(PRETRAINED, threads=2).translate(sentences)
    translator = load_translator(PRETRAINED, threads=1)
    assert together == [translator.translate([sentence])[0] for sentence in sentences]


def test_threads_are_not_tied_to_cores_that_are_forbidden() -> None:
    """By default as many threads as this process may use cores; none of them is pinned."""
    import onnxruntime

    given = []
    for cores in ({0}, {0, 1, 2, 3, 4}):
        with (
            mock.patch.object(os, "sched_getaffinity", lambda _, cores=cores: cores),
            mock.patch.object(onnxruntime, "InferenceSession", lambda _, o, **__: given.append(o)),
        ):
            onnx_session(b"")
    assert [options.intra_op_num_threads for options in given] == [1, 5]
    assert all(options.log_severity_level == 3 for options in given)


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_a_number_of_threads_out_of_range(threads: int) -> None:
    with pytest.raises(VqnmtError, match=rf"threads is {threads}; it must be from 1 to 1,024"):
        load_translator(PRETRAINED, threads=threads)


def test_exports_translate_and_rescore_without_pytorch(
    finished_run, exports, tmp_path: Path
) -> None:
    pytest.importorskip("ctranslate2")
    sources = finished_run.lines("corpus/test.test.en")[:5]
    student, teacher = (finished_run.folder / name for name in ("student", "teacher"))
    export(teacher, tmp_path / "teacher", "fp32")
    code = """
import sys, runpy
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top in BLOCKED:
            raise ImportError(f"{name} is not installed here")
BLOCKED = {"torch", "transformers", "accelerate", "hydra", "omegaconf", "onnx", "safetensors",
           "sacrebleu", "matplotlib", "tqdm", "scipy", "PIL", "tensorboard"}
sys.meta_path.insert(0, Refuse())
sys.argv[0] = "scripts/translate.py"
runpy.run_path("scripts/translate.py", run_name="__main__")
"""
    model = "--quiet", "--model", exports["fp32"]
    rescoring = "--candidates", "4", "--rescore", tmp_path / "teacher"
    result = subprocess.run(
        [sys.executable, "-c", code, *model, *rescoring],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT / "scripts"), "OMP_NUM_THREADS": "1"},
        input="".join(source + "\n" for source in sources),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    expected = Translator.from_pretrained(student).translate(
        sources, candidates=4, rescorer=Translator.from_pretrained(teacher)
    )
    assert result.stdout.splitlines() == [translation.text for translation in expected]


def test_candidates_are_those_of_the_model(finished_run, exports) -> None:
    sources = [*finished_run.lines("corpus/test.test.en"), ""]
    settings = SearchSettings(candidates=4)
    expected = Translator.from_pretrained(finished_run.folder / "student").n_best(sources, settings)
    found = load_translator(exports["fp32"], threads=1).n_best(sources, settings)
    for row, wanted in zip(found, expected, strict=True):
        assert [t.score for t in row] == pytest.approx([t.score for t in wanted], abs=1e-3)
        for one, other in zip(row, wanted, strict=True):
            one.score = other.score
    assert found == expected


def test_an_export_draws_no_samples(exports) -> None:
    translator = load_translator(exports["fp32"])
    with pytest.raises(VqnmtError, match="temperature is for models that PyTorch runs"):
        translator.translate(["bale"], temperature=1.0)


def test_a_student_cannot_rescore(exports) -> None:
    translator = load_translator(exports["fp32"])
    with pytest.raises(VqnmtError, match="only an autoregressive model can rescore"):
        translator.translate(["bale"], rescorer=translator)


def test_a_later_export_takes_the_earlier_ones_place(finished_run, tmp_path: Path) -> None:
    student, folder = finished_run.folder / "student", tmp_path / "deep" / "export"
    export(student, folder, "fp32")
    export(student, folder, "int8")
    assert json.loads((folder / "config.json").read_text())["precision"] == "int8"
    assert [path.name for path in folder.parent.iterdir()] == ["export"]
    with pytest.raises(VqnmtError, match="precision is 'int4'; choose one of fp32, int8"):
        export(student, folder, "int4")
    with pytest.raises(VqnmtError, match="student: holds something other than an export"):
        export(student, student, "int8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "spm.model").unlink(), r"spm\.model: missing.*incomplete"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json: not the config"),
        (
            lambda f: (f / "config.json").write_text('{"model_type": "vqnmt-export", "format": 9}'),
            r"config\.json: .*9.*this version reads",
        ),
        (lambda f: (f / "model.onnx").write_bytes(b"\0" * 99), r"model\.onnx: cannot be loaded"),
    ],
)
def test_damaged_export_is_refused(exports, tmp_path: Path, capfd, damage, message: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exports["int8"], folder)
    (folder / CHECKSUMS).unlink()
    damage(folder)
    with pytest.raises(VqnmtError, match=message) as caught:
        load_translator(folder)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_an_export_runs_on_a_cpu_only(exports) -> None:
    with pytest.raises(VqnmtError, match=r"device is cuda, but .* is exported for a CPU"):
        load_translator(exports["fp32"], device="cuda")
