"""Teachers of transformers that need a prefix or language codes; tiny, random, built here."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from transformers import (
    ByT5Tokenizer,
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    NllbTokenizer,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from vqnmt.errors import VqnmtError
from vqnmt.translate.seq2seq import (
    ConvertedTranslator,
    TransformersTranslator,
    language_code,
    language_ids,
)

TEXT = [f"ba do fi gu ka le {number}" for number in range(40)]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small sentencepiece model and its list of pieces."""
    folder, model = tmp_path_factory.mktemp("pieces"), io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXT), model_writer=model, vocab_size=28, minloglevel=2
    )
    (folder / "spm.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    own = [processor.IdToPiece(i) for i in range(3, len(processor))]
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL, *own])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return folder


def m2m100(pieces: Path) -> M2M100Tokenizer:
    return M2M100Tokenizer(str(pieces / "vocab.json"), str(pieces / "spm.model"))


def nllb(pieces: Path) -> NllbTokenizer:
    return NllbTokenizer(vocab=json.loads((pieces / "vocab.json").read_text()))


def scored(pieces: Path) -> list[tuple[str, float]]:
    """The pieces with scores, special ones as sentencepiece numbers them."""
    own = list(json.loads((pieces / "vocab.json").read_text()))[len(SPECIAL) :]
    return [(piece, -float(i)) for i, piece in enumerate(["<unk>", "<s>", "</s>", *own])]


def mbart50(pieces: Path) -> MBart50Tokenizer:
    return MBart50Tokenizer(vocab=scored(pieces))


def mbart(pieces: Path) -> MBartTokenizer:
    return MBartTokenizer()


def tiny(tokenizer: Any) -> PreTrainedModel:
    """A random model for a tokenizer, of the kind that goes with it."""
    torch.manual_seed(1)
    size = {
        **{"vocab_size": max(len(tokenizer), *language_ids(tokenizer).values()) + 1},
        **{"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
        **{"encoder_layers": 1, "decoder_layers": 1},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
        **{"max_position_embeddings": 64, "decoder_start_token_id": 2},
    }
    if isinstance(tokenizer, MBart50Tokenizer | MBartTokenizer):
        return MBartForConditionalGeneration(MBartConfig(**size))
    return M2M100ForConditionalGeneration(M2M100Config(**size))


def spy(teacher: TransformersTranslator) -> list[dict[str, Any]]:
    """Return a list that gets what each call of `generate` got and gave."""
    calls: list[dict[str, Any]] = []
    generate = teacher.model.generate

    def look(**arguments: Any) -> Any:
        output = generate(**arguments)
        calls.append(arguments | {"output": output})
        return output

    teacher.model.generate = look  # type: ignore[method-assign]
    return calls


@pytest.mark.parametrize(
    ("build", "german", "english"),
    [
        (m2m100, "__de__", "__en__"),
        (nllb, "deu_Latn", "eng_Latn"),
        (mbart50, "de_DE", "en_XX"),
        (mbart, "de_DE", "en_XX"),
    ],
)
def test_multilingual_teacher_is_told_both_languages(
    tmp_path: Path, pieces: Path, build: Callable, german: str, english: str
) -> None:
    tokenizer = build(pieces)
    tokenizer.save_pretrained(tmp_path)
    tiny(tokenizer).save_pretrained(tmp_path)
    for languages, codes in (
        (("de", "en"), (german, english)),
        (("en", "de"), (english, german)),
    ):
        teacher = TransformersTranslator(str(tmp_path), *languages)
        calls = spy(teacher)
        (translation,) = teacher.translate(["ba do fi"], beam=2)
        (call,) = calls
        source, target = tokenizer.convert_tokens_to_ids(list(codes))
        row = call["input_ids"][0].tolist()
        assert source in row and target not in row
        assert call["forced_bos_token_id"] == target
        assert call["output"][0, 1] == target  # after the decoder's start
        assert german not in translation.text and english not in translation.text


def test_teacher_without_the_language_is_refused(tmp_path: Path, pieces: Path) -> None:
    tokenizer = mbart50(pieces)
    tokenizer.save_pretrained(tmp_path)
    tiny(tokenizer).save_pretrained(tmp_path)
    message = f"^teacher={tmp_path}: corpus.target_language is eo, for which it has no codes"
    with pytest.raises(VqnmtError, match=message):
        TransformersTranslator(str(tmp_path), "en", "eo")


def test_prefix_stands_before_every_source(tmp_path: Path) -> None:
    torch.manual_seed(1)
    size = {"vocab_size": 384, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1}
    T5ForConditionalGeneration(
        T5Config(**size, num_heads=2, decoder_start_token_id=0)
    ).save_pretrained(tmp_path)
    ByT5Tokenizer().save_pretrained(tmp_path)
    plain = TransformersTranslator(str(tmp_path), "en", "de")
    prefixed = TransformersTranslator(str(tmp_path), "en", "de", prefix="to German: ")
    assert language_ids(plain.tokenizer) == {}
    calls = [spy(plain), spy(prefixed)]
    expected = plain.translate(["to German: ba", "to German: do fi"])
    found = prefixed.translate(["ba", "", "do fi"])
    assert [found[0], found[2]] == expected and found[1].text == ""
    for one, other in zip(*calls, strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])
        assert "forced_bos_token_id" not in one


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> TransformersTranslator:
    """A random teacher that writes bytes, most of them no UTF-8."""
    folder = tmp_path_factory.mktemp("bytewise")
    torch.manual_seed(1)
    size = {"vocab_size": 384, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1}
    T5ForConditionalGeneration(
        T5Config(**size, num_heads=2, decoder_start_token_id=0)
    ).save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    return TransformersTranslator(str(folder), "en", "de")


def test_sentences_are_treated_as_by_our_own_models(bytewise: TransformersTranslator) -> None:
    calls = spy(bytewise)
    spellings = ["The caf\u00e9", "The cafe\u0301", "\ufeffThe\u00a0ca\u00adf\u00e9 "]
    as_they_are = ["...", "\U0001f642", "10\u00a0%", "https://a.b/c", "a@b.de"]
    found = [one.text for one in bytewise.translate([*spellings, *as_they_are, "", "\u200b"])]
    assert found[0] == found[1] == found[2]
    assert found[3:] == [*as_they_are, "", ""]
    assert sum(len(call["input_ids"]) for call in calls) == len(spellings)


def test_what_it_writes_keeps_the_invariants(
    bytewise: TransformersTranslator, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = [" two  blanks\n", "half \ufffd\x00a\u200b", "cafe\u0301", "\ufeff"]
    monkeypatch.setattr(bytewise.tokenizer, "batch_decode", lambda *_, **__: raw)
    found = bytewise.translate(["aa", "bb", "cc", "dd"])
    assert [one.text for one in found] == ["two blanks", "half a", "caf\u00e9", ""]


@pytest.mark.parametrize(
    ("sentences", "beam", "message"),
    [
        ("Hello", 1, "^sentences is 'Hello' of type str: give a list of strings"),
        (["a", None], 1, r"^sentences\[1\] is None"),
        (["a\udce4"], 1, r"^sentences\[0\] has a lone surrogate"),
        (["a"], 0, "^beam is 0; it must be from 1 to 1,000$"),
        (["a"], 10**9, "^beam is 1000000000; it must be from 1 to 1,000$"),
    ],
)
def test_wrong_arguments_are_refused(
    bytewise: TransformersTranslator, sentences: Any, beam: int, message: str
) -> None:
    with pytest.raises(VqnmtError, match=message):
        bytewise.translate(sentences, beam=beam)


@pytest.mark.parametrize(
    ("language", "codes", "expected"),
    [
        ("de", ["en", "de"], "de"),
        ("deu_Latn", ["eng_Latn", "deu_Latn"], "deu_Latn"),
        ("es", ["est_Latn", "spa_Latn"], "spa_Latn"),  # not the code that begins like it
        ("et", ["est_Latn", "spa_Latn"], "est_Latn"),
        ("zh-Hant", ["zho_Hans", "zho_Hant"], "zho_Hant"),
        ("pt-BR", ["pt_XX", "en_XX"], "pt_XX"),
        ("no", ["no", "nob_Latn"], "no"),
        ("zh", ["zho_Hans", "zho_Hant"], None),
        ("eo", ["en_XX"], None),
    ],
)
def test_language_codes(language: str, codes: list[str], expected: str | None) -> None:
    if expected is not None:
        assert language_code(language, codes) == expected
        return
    with pytest.raises(VqnmtError, match=f"is {language}, for which it has (no|2) codes: "):
        language_code(language, codes)


def test_a_converted_checkpoint_translates_as_the_checkpoint_does(
    tmp_path: Path, pieces: Path, script: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CTranslate2 and PyTorch are each other's oracle, and `evaluate` takes both."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: tmp_path / name)
    ctranslate2 = pytest.importorskip("ctranslate2")
    folder, converted = tmp_path / "checkpoint", tmp_path / "converted"
    own = list(json.loads((pieces / "vocab.json").read_text()))[len(SPECIAL) :]
    names = ["</s>", "<unk>", *own, "<pad>"]  # padding last, as in Marian's own
    (tmp_path / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    spm = str(pieces / "spm.model")
    tokenizer = MarianTokenizer(spm, spm, str(tmp_path / "vocab.json"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    size = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_layers": 1}
    size |= {"decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    size |= {"vocab_size": len(names), "max_position_embeddings": 64, "eos_token_id": 0}
    size |= {"forced_eos_token_id": None}  # CTranslate2 does not force it at the limit
    size |= {"pad_token_id": len(names) - 1, "decoder_start_token_id": len(names) - 1}
    MarianMTModel(MarianConfig(**size)).save_pretrained(folder)
    files = [path.name for path in folder.iterdir() if path.suffix in (".json", ".spm")]
    files = [name for name in files if name not in ("config.json", "generation_config.json")]
    converter = ctranslate2.converters.TransformersConverter(str(folder), copy_files=files)
    converter.convert(str(converted))
    lines = ["ba do fi", "gu", "", "ka le ba do"]
    expected = [
        one.text for one in TransformersTranslator(str(folder), "de", "en").translate(lines)
    ]
    found = ConvertedTranslator(str(converted), "de", "en").translate(lines)
    assert [one.text for one in found] == expected
    sources, references = tmp_path / "a.de", tmp_path / "a.en"
    sources.write_text("ba do fi\ngu\nka le 7 ba do\n")
    references.write_text("ba do fi\ngu\nka le 7 ba do\n")
    files = ("--source", sources, "--reference", references, "--output", tmp_path / "out")
    printed = set()
    for model in (folder, converted, "hf://checkpoint"):
        languages = ("--source-language", "de", "--target-language", "en")
        outcome = script("evaluate", "--model", model, *languages, *files)
        assert outcome.status == 0, outcome.err
        printed.add(outcome.out)
        # What it has written is scored as it was.
        again = script("evaluate", "--model", tmp_path / "out", "--target-language", "en", *files)
        printed.add(again.out)
        refused = script("evaluate", "--model", model, *files)
        assert refused.status == 2 and "is no model of vqnmt: give --source-language" in refused.err
    assert len(printed) == 1 and printed.pop().startswith("BLEU ")
    (tmp_path / "short").write_text("one line\n")
    short = script("evaluate", "--model", tmp_path / "short", *files)
    assert short.status == 2 and "cannot score 1 translations against 3 references" in short.err
    sources.write_text("gu\n" * 2 + "ba do fi " * 40 + "\n")
    long = script("evaluate", "--model", folder, *languages, *files)
    assert long.status == 2 and "the model takes 64: split it" in long.err
    (converted / "tokenizer_config.json").unlink()
    for place in converted.glob("*.json"):
        if place.name not in ("config.json", "shared_vocabulary.json"):
            place.unlink()
    bare = script("evaluate", "--model", converted, *languages, *files)
    assert bare.status == 2 and bare.err.count("\n") == 1 and "with its tokenizer" in bare.err
