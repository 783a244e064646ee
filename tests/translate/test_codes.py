"""Decoding from given codes, and their alternatives: PyTorch, exported, and by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vqnmt.errors import VqnmtError
from vqnmt.exporting.folder import export
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.loading import load_translator
from vqnmt.translate.pytorch import Translator

TEXT = "bale gudo file leka bafi " * 3 + "bale"


@pytest.fixture(scope="module")
def student(finished_run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run's student, made to write several codes: the end is less likely."""
    folder = tmp_path_factory.mktemp("several") / "student"
    translator = Translator.from_pretrained(finished_run.folder / "student")
    with torch.no_grad():
        translator.model.code_output.bias[translator.codebook_size :] -= 4
    translator.save_pretrained(folder, "")
    return folder


@pytest.fixture(scope="module", params=["pytorch", "fp32", "int8"])
def translator(request, student: Path, tmp_path_factory: pytest.TempPathFactory) -> BatchTranslator:
    if request.param == "pytorch":
        return load_translator(student)
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("export") / request.param
    export(student, folder, request.param)
    return load_translator(folder)


def by_hand(folder: Path, codes: list[int]) -> torch.Tensor:
    """Probabilities of the codes at each step, as the last or not, (steps, 2, K)."""
    translator = Translator.from_pretrained(folder)
    model = translator.model
    with torch.inference_mode():
        row = torch.tensor(translator.vocabulary.encode([TEXT]))
        vectors = model.quantizer.codes_to_vectors(torch.tensor([codes]))
        return model.predict(vectors, *model.encode(row))[0].softmax(-1).unflatten(1, (2, -1))


def test_the_codes_decode_to_the_translation(translator: BatchTranslator) -> None:
    (expected,) = translator.translate([TEXT])
    codes = translator.codes(TEXT)
    assert codes == expected.codes
    assert len(codes) > 1
    for found in (
        translator.decode_codes(TEXT, codes),
        translator.decode_codes(TEXT, [], complete=True),
        translator.decode_codes(TEXT, codes[:1], complete=True),
    ):
        assert (found.text, found.codes, found.spans) == (expected.text, codes, expected.spans)
        assert found.score == pytest.approx(expected.score, rel=1e-4)


def test_other_codes_give_another_translation(translator: BatchTranslator) -> None:
    codes = translator.codes(TEXT)
    others = [code for code, _ in translator.code_alternatives(TEXT, codes, 0, 16)]
    texts = {translator.decode_codes(TEXT, [code, *codes[1:]]).text for code in others}
    assert len(texts) > 1
    changed = translator.decode_codes(TEXT, [others[1]], complete=True)
    assert changed.codes[0] == others[1]
    assert (
        translator.decode_codes(TEXT, np.array(codes)).text == translator.translate([TEXT])[0].text
    )


def test_alternatives_are_the_predictors_own(translator: BatchTranslator, student: Path) -> None:
    codes = translator.codes(TEXT)
    p = by_hand(student, codes)
    exact = not getattr(translator, "_config", None) or translator._config.precision == "fp32"
    for position in range(len(codes)):
        found = translator.code_alternatives(TEXT, codes, position, 16)
        values = [p for _, p in found]
        assert values == sorted(values, reverse=True) and len(dict(found)) == 16
        if exact:
            for code, value in found:
                assert value == pytest.approx(p[position, :, code].sum().item(), rel=1e-3)
            best = p[position, int(position == len(codes) - 1)].argmax()
            assert best == codes[position], "the greedy code is the likeliest, as the last or not"
    assert len(translator.code_alternatives(TEXT, codes, len(codes) - 1)) == 5


def test_wrong_codes_are_one_sentence(translator: BatchTranslator) -> None:
    for codes, fault in (
        ([16], r"codes\[0\] is 16; it must be a whole number from 0 to 15"),
        ([0, -1], r"codes\[1\] is -1"),
        ([0.5], r"codes\[0\] is 0.5"),
        ([True], r"codes\[0\] is True"),
        ("12", "codes is '12': give a list of whole numbers"),
        (3, "codes is 3: give a list of whole numbers"),
        ([0] * 99, "codes has 99 codes; this sentence may have"),
        ([], "codes is empty, but every translation of this model has a code"),
    ):
        with pytest.raises(VqnmtError, match=fault):
            translator.decode_codes(TEXT, codes)
    for position in (-1, 99, 0.5, None):
        fault = f"position is {position}; it must be a whole number from 0 to"
        with pytest.raises(VqnmtError, match=fault):
            translator.code_alternatives(TEXT, [1], position)
    with pytest.raises(VqnmtError, match="count is 0"):
        translator.code_alternatives(TEXT, [1], 0, 0)
    with pytest.raises(VqnmtError, match=r"^a source has .* and the model takes .*: split it"):
        translator.decode_codes("bale " * 300, [1])
    for text in ("", "...", " "):
        assert translator.codes(text) == []
        with pytest.raises(VqnmtError, match="has no words"):
            translator.decode_codes(text, [1])


def test_scores_of_given_codes_follow_the_length_penalty(translator: BatchTranslator) -> None:
    codes = translator.codes(TEXT)
    mean = translator.decode_codes(TEXT, codes)
    translator.length_penalty = 0.0
    try:
        total = translator.decode_codes(TEXT, codes)
    finally:
        translator.length_penalty = 1.0
    assert total.score == pytest.approx(mean.score * mean.length, rel=1e-4)


def test_models_without_codes_say_so(finished_run) -> None:
    teacher = load_translator(finished_run.folder / "teacher")
    with pytest.raises(VqnmtError, match="only a latent model has codes"):
        teacher.decode_codes(TEXT, [1])
    assert teacher.codes(TEXT) == []
