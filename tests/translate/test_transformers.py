"""Our models in transformers: Auto classes, training losses, saving and the Hub."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

import vqnmt
from vqnmt.errors import VqnmtError
from vqnmt.tokens import EOS, PAD
from vqnmt.translate.pretrained import VqnmtConfig, VqnmtForConditionalGeneration, VqnmtTokenizer

LINES = ["bale gudo", "leka file bafi dofi gudo", "  bale\u00a0leka  ", "fifi"]


def load(folder: Path):
    return AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def translated(model, tokenizer, lines: list[str], **settings: int) -> list[str]:
    batch = tokenizer(lines, return_tensors="pt", padding=True)
    return tokenizer.batch_decode(model.generate(**batch, **settings), skip_special_tokens=True)


@pytest.mark.parametrize(("kind", "beam"), [("student", 1), ("student", 3), ("teacher", 4)])
def test_auto_classes_and_the_command_line_give_the_same_text(
    finished_run, script: Callable, kind: str, beam: int
) -> None:
    folder = finished_run.folder / kind
    model, tokenizer = (
        AutoModelForSeq2SeqLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    assert isinstance(model, VqnmtForConditionalGeneration)
    assert isinstance(tokenizer, VqnmtTokenizer)
    assert isinstance(AutoConfig.from_pretrained(folder), VqnmtConfig)
    lines = [*LINES, *finished_run.lines("corpus/valid.en")]
    stdin = "".join(line + "\n" for line in lines).encode()
    expected = script("translate", "--model", folder, "--beam", beam, stdin=stdin).out.splitlines()
    assert translated(model, tokenizer, lines, num_beams=beam) == expected
    assert [translated(model, tokenizer, [line], num_beams=beam)[0] for line in LINES] == expected[
        :4
    ]


def test_several_sequences_and_wrong_numbers(finished_run) -> None:
    folder = finished_run.folder / "student"
    model, tokenizer = (
        AutoModelForSeq2SeqLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    found = translated(model, tokenizer, LINES, num_return_sequences=3)
    assert len(found) == 3 * len(LINES)
    assert found[::3] == translated(model, tokenizer, LINES, num_beams=3)
    batch = tokenizer(LINES, return_tensors="pt", padding=True)
    ids = model.generate(**batch)
    assert ((ids == EOS).sum(dim=1) == 1).all() and (ids[ids == PAD].numel() > 0)
    for settings, fault in (({"num_beams": 0}, "beam is 0"), ({"num_return_sequences": -1}, "-1")):
        with pytest.raises(VqnmtError, match=fault):
            model.generate(**batch, **settings)
    long = tokenizer("bale " * 70, return_tensors="pt")
    with pytest.raises(VqnmtError, match=r"a source has .* tokens and the model takes 60"):
        model.generate(**long)


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_the_loss_is_that_of_the_model_however_it_is_padded(finished_run, kind: str) -> None:
    folder = finished_run.folder / kind
    model, tokenizer = (
        AutoModelForSeq2SeqLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    model.eval()
    sources, targets = (finished_run.lines(f"corpus/valid.{side}")[:4] for side in ("en", "de"))
    batch = tokenizer(sources, return_tensors="pt", padding=True)
    labels = tokenizer(text_target=targets, return_tensors="pt", padding=True)["input_ids"]
    expected = model.model(batch["input_ids"], labels).total
    loss = model(**batch, labels=labels.masked_fill(labels == PAD, -100)).loss
    assert torch.equal(loss, expected) and loss.requires_grad
    ended = torch.nn.functional.pad(labels, (0, 1))
    ended[torch.arange(4), (labels != PAD).sum(1)] = EOS
    on_the_left = tokenizer(sources, return_tensors="pt", padding=True, padding_side="left")
    assert torch.allclose(model(**on_the_left, labels=ended).loss, expected)
    with pytest.raises(VqnmtError, match="labels is None"):
        model(**batch)


def test_what_it_saves_is_a_model_folder(finished_run, tmp_path: Path, script: Callable) -> None:
    folder = finished_run.folder / "student"
    model, tokenizer = (
        AutoModelForSeq2SeqLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    # Fine-tuning saves again over it.
    with torch.no_grad():
        model.model.begin += 0.01
    model.save_pretrained(tmp_path)
    stdin = "".join(line + "\n" for line in LINES).encode()
    outcome = script("translate", "--model", tmp_path, "--quiet", stdin=stdin)
    assert outcome.status == 0, outcome.err
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.model.begin, model.model.begin)
    assert (loaded.language_model is None) == (model.language_model is None)
    assert outcome.out.splitlines() == translated(
        loaded, AutoTokenizer.from_pretrained(tmp_path), LINES
    )
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "vqnmt"


def test_the_tokenizer_is_the_vocabulary(finished_run) -> None:
    folder = finished_run.folder / "student"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary = vqnmt.load_translator(folder).vocabulary
    lines = [*LINES, "ß \U0001f600 new words", "", "  ", "<s> </s> {x}"]
    for line in lines[:-1]:
        assert tokenizer(line)["input_ids"] == vocabulary.encode([line])[0]
        assert (
            tokenizer.decode(tokenizer(line)["input_ids"])
            == vocabulary.decode(vocabulary.encode([line]))[0]
        )
    assert len(tokenizer) == tokenizer.vocab_size == len(vocabulary) == len(tokenizer.get_vocab())
    assert tokenizer.pad_token_id == PAD and tokenizer.eos_token_id == EOS


def test_vqnmt_registers_with_transformers_that_was_imported_before(finished_run) -> None:
    """The other tests import vqnmt first."""
    folder = finished_run.folder / "student"
    code = (
        "import transformers, vqnmt\n"
        f"config = transformers.AutoConfig.from_pretrained({str(folder)!r})\n"
        "assert type(config) is vqnmt.VqnmtConfig\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
