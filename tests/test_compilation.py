"""Compiled models and lower precisions: the translations, and what is compiled when."""

import functools
import shutil
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from torch._dynamo.utils import counters

from vqnmt.compilation import compiled_copy
from vqnmt.decoding import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.layers import TransformerConfig
from vqnmt.models import FertilityConfig, FertilityTransformer, LatentConfig, LatentTransformer
from vqnmt.quantizers import QuantizerConfig
from vqnmt.translation import load_translator
from vqnmt.translator import Translator

# Traces as any backend does, and runs PyTorch's own kernels: seconds in place of a minute.
TRACED = functools.partial(torch.compile, backend="eager")


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture
def traced() -> Iterator[None]:
    with mock.patch("torch.compile", TRACED):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_sentences_alone_are_translated_alike_and_compile_no_more(
    finished_run, traced, kind: str
) -> None:
    folder = finished_run.folder / kind
    sources = [*finished_run.lines("corpus/test.test.en"), "", "b", "bale gudo leka " * 8]
    eager, compiled = (load_translator(folder, "cpu", compile=flag) for flag in (False, True))
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 4 and not counters["graph_break"]
    for source in sources:
        assert compiled.translate([source]) == eager.translate([source])
    assert counters["stats"]["unique_graphs"] == graphs
    assert compiled.translate(sources) == eager.translate(sources)
    if kind == "student":
        for source in sources:
            read = [one.translate([source], language_model=False) for one in (compiled, eager)]
            assert read[0] == read[1]
    assert compiled.translate(sources[:1], beam=3) == eager.translate(sources[:1], beam=3)
    assert counters["stats"]["unique_graphs"] == graphs, "batches and beams run as without"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")
def test_machine_code_translates_as_pytorch_does(finished_run) -> None:
    folder = finished_run.folder / "student"
    sources = finished_run.lines("corpus/test.test.en")
    eager, compiled = (load_translator(folder, "cpu", compile=flag) for flag in (False, True))
    for source in sources:
        (expected,), (found,) = eager.translate([source]), compiled.translate([source])
        assert (found.text, found.codes) == (expected.text, expected.codes)
        assert found.score == pytest.approx(expected.score, abs=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_cuda_graphs_translate_as_pytorch_does(finished_run, kind: str) -> None:
    folder = finished_run.folder / kind
    sources = finished_run.lines("corpus/test.test.en")
    eager, compiled = (load_translator(folder, "cuda", compile=flag) for flag in (False, True))
    for source in sources * 2:  # recorded, then replayed
        assert compiled.translate([source])[0].text == eager.translate([source])[0].text
    assert not counters["inductor"]["cudagraph_skips"]


def test_without_a_compiler_the_user_is_told(finished_run) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nmore")

    folder = finished_run.folder / "student"
    with (
        mock.patch("torch.compile", lambda part, **_: fail),
        pytest.raises(VqnmtError, match=r"here \(.*compiler found\): install a C\+\+") as caught,
    ):
        load_translator(folder, "cpu", compile=True)
    assert "\n" not in str(caught.value)


def test_other_models_are_not_compiled() -> None:
    model = FertilityTransformer(FertilityConfig(transformer=TransformerConfig(dim=8, heads=2)), 9)
    with pytest.raises(VqnmtError, match="only latent and autoregressive models"):
        compiled_copy(model)


@pytest.mark.parametrize("kind", ["teacher", "student"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_lower_precision_changes_few_translations(finished_run, kind: str, dtype: str) -> None:
    folder = finished_run.folder / kind
    sources = finished_run.lines("corpus/test.test.en")
    exact = Translator.from_pretrained(folder, "cpu").translate(sources)
    low = Translator.from_pretrained(folder, "cpu", dtype=dtype)
    assert low.model.embedding.weight.dtype == {"bf16": torch.bfloat16, "fp16": torch.half}[dtype]
    found = low.translate(sources)
    assert sum(a.text == b.text for a, b in zip(exact, found, strict=True)) > 0.7 * len(sources)
    assert [t.score for t in found] != [t.score for t in exact]
    assert low.translate(sources[:1], beam=2)[0].text


@pytest.mark.parametrize("name", ["product", "residual", "semhash", "gumbel_softmax"])
def test_any_quantizer_in_lower_precision(name: str) -> None:
    size = TransformerConfig(dim=16, feedforward=24, heads=2)
    config = LatentConfig(
        transformer=size, quantizer=QuantizerConfig(name=name, codebook_size=16), encoder_layers=1
    )
    model = LatentTransformer(config, 50).eval().to(torch.bfloat16)
    model.quantizer.float()
    assert len(model.candidates(torch.tensor([[5, 6, 7]]), SearchSettings(beam=2))) == 1


def test_an_unknown_dtype_is_refused(finished_run) -> None:
    with pytest.raises(VqnmtError, match="dtype is 'int4'; choose one of fp32, bf16, fp16"):
        load_translator(finished_run.folder / "student", "cpu", dtype="int4")
