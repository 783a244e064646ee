import os
import re
import subprocess
import sys
import unicodedata
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vqnmt.data import vocabulary as module
from vqnmt.data.normalization import clean_output
from vqnmt.data.vocabulary import Vocabulary, VocabularyConfig
from vqnmt.data.workers import available_cores
from vqnmt.errors import VqnmtError
from vqnmt.spans import slot
from vqnmt.tokens import BOS, EOS, PAD, UNK

_SYLLABLES = [a + b for a in "kbdfgmnprstvwzl" for b in "aio"][::3]
_WORDS = [a + b + c for a in _SYLLABLES for b in _SYLLABLES[1:7] for c in _SYLLABLES[::4]]
SENTENCES = [
    " ".join(_WORDS[(index * step) % len(_WORDS)] for step in (1, 3, 7, 11)) + f" {{name}} {index}"
    for index in range(300)
] + ["only once {rare}", "Größe … ﬁx"]


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def vocabulary(request):
    return Vocabulary.train(SENTENCES, 330, slots=4, model_type=request.param)


def test_sizes_and_ids(vocabulary):
    assert len(vocabulary) == 330
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    ids = [index for row in vocabulary.encode(SENTENCES) for index in row]
    assert min(ids) > UNK and max(ids) < 330


def test_text_comes_back_as_it_was(vocabulary):
    assert vocabulary.decode(vocabulary.encode(SENTENCES)) == SENTENCES
    assert vocabulary.encode(["", " \n"]) == [[], []]
    assert vocabulary.encode([]) == vocabulary.decode([]) == []
    assert vocabulary.decode([[], [PAD, BOS, EOS, UNK]]) == ["", ""]


@settings(max_examples=200)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_no_text_is_unknown(text):
    vocabulary = _any_vocabulary()
    ids = vocabulary.encode([text])
    assert UNK not in ids[0]
    assert vocabulary.decode(ids) == [clean_output(text)]


@settings(max_examples=400)
@given(st.lists(st.integers(0, 329), max_size=12))
@example([4 + 0xC3, 4 + 0x41])  # half an "Ã"
def test_what_any_tokens_spell_keeps_the_invariants(row):
    """See `clean_output`; the vocabulary has a piece for each byte, so anything may come."""
    (text,) = _any_vocabulary().decode([row])
    assert "\ufffd" not in text and "\ufeff" not in text
    assert text == " ".join(text.split())
    assert not any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in text)
    assert unicodedata.is_normalized("NFC", text)


def _any_vocabulary(made=[]):  # noqa: B006 - trained once for all of hypothesis' examples
    if not made:
        made.append(Vocabulary.train(SENTENCES, 330, slots=4))
    return made[0]


def test_special_ids_are_dropped_on_the_way_back(vocabulary):
    ids = vocabulary.encode(["kabe bedi"])[0]
    assert vocabulary.decode([[BOS, *ids, EOS, PAD, PAD]]) == ["kabe bedi"]


def test_slots_are_pieces_and_spans_teach_none(vocabulary):
    assert vocabulary.slots == 4
    for number in range(4):
        (row,) = vocabulary.encode([f"ka{slot(number)}be"])
        assert sum(vocabulary.decode([[index]]) == [slot(number)] for index in row) == 1
        assert vocabulary.decode([row]) == [f"ka{slot(number)}be"]
    pieces = "".join(vocabulary.pieces(range(260, len(vocabulary))))
    assert "name" not in pieces and not set("{}") & set(pieces)
    assert Vocabulary.train(SENTENCES, 330).slots == 0


def test_a_pattern_of_the_user_teaches_no_pieces():
    text = [f"{sentence} Qyh" for sentence in SENTENCES]
    assert "Q" in "".join(Vocabulary.train(text, 330, slots=4).pieces(range(330)))
    made = Vocabulary.train(text, 330, slots=4, span_patterns=["Qyh"])
    assert "Q" not in "".join(made.pieces(range(260, 330)))


def test_long_training_is_announced(monkeypatch, capsys):
    monkeypatch.setattr(module, "_LONG", 1000)
    Vocabulary.train(SENTENCES, 330)
    amount = sum(map(len, SENTENCES))
    assert (
        capsys.readouterr().err == f"vocabulary: learning 330 pieces from {amount:,} characters\n"
    )


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_pieces_of_the_targets_come_first_and_spell_alike(kind):
    plain = Vocabulary.train(SENTENCES, 330, slots=4, model_type=kind)
    targets = [
        *(one.partition("{")[0] for one in SENTENCES[:3]),
        "",
        "é",
    ]  # of its bytes two
    found = Vocabulary.train(SENTENCES, 330, slots=4, model_type=kind, targets=targets)
    every = range(330)
    assert sorted(found.pieces(every)) == sorted(plain.pieces(every))
    spelt = found.encode(SENTENCES)
    assert list(map(found.pieces, spelt)) == list(map(plain.pieces, plain.encode(SENTENCES)))
    assert found.decode(spelt) == SENTENCES
    ids = {index for row in found.encode(targets) for index in row}
    ids |= {found.encode([slot(number)])[0][-1] for number in range(4)}
    assert ids == set(range(UNK + 1, UNK + 1 + len(ids))) and len(ids) < 300
    # Within either part the pieces keep their order.
    parts = [found.pieces(every)[: UNK + 1 + len(ids)], found.pieces(every)[4 + len(ids) :]]
    order = {piece: index for index, piece in enumerate(plain.pieces(every))}
    assert all([order[p] for p in part] == sorted(order[p] for p in part) for part in parts)


def test_training_repeats_byte_for_byte_and_saving_keeps_it(tmp_path, vocabulary):
    again = [Vocabulary.train(SENTENCES, 330, slots=4) for _ in range(2)]
    again[0].save(tmp_path / "first" / "spm.model")
    again[1].save(tmp_path / "second.model")
    assert (tmp_path / "first" / "spm.model").read_bytes() == (
        tmp_path / "second.model"
    ).read_bytes()
    vocabulary.save(tmp_path / "spm.model")
    loaded = Vocabulary.load(tmp_path / "spm.model")
    assert loaded.encode(SENTENCES) == vocabulary.encode(SENTENCES)


def test_too_large_names_the_largest_size_and_that_size_works():
    with pytest.raises(VqnmtError, match=r"vocabulary\.size is 9000") as caught:
        Vocabulary.train(SENTENCES, 9000)
    largest = int(re.search(r"at most (\d+)", str(caught.value))[1])
    assert len(Vocabulary.train(SENTENCES, largest)) == largest


def test_too_small_names_the_smallest_size():
    with pytest.raises(VqnmtError, match=r"vocabulary\.size is 262.*at least \d+"):
        Vocabulary.train(SENTENCES, 262)


def test_many_sentences_are_encoded_by_threads_to_the_same_ids(vocabulary):
    with mock.patch.object(module, "_THREADED", 1 << 30):
        expected = vocabulary.encode(SENTENCES)
    for cores in (1, 3):
        with (
            mock.patch.object(module, "_THREADED", 1),
            mock.patch.object(module, "available_cores", return_value=cores),
            mock.patch.object(vocabulary, "_pieces", wraps=vocabulary._pieces) as pieces,
        ):
            assert vocabulary.encode(SENTENCES) == expected
        assert pieces.EncodeAsIds.call_args.kwargs == {"num_threads": cores}


def test_as_many_threads_as_cores_that_may_be_used():
    if hasattr(os, "sched_getaffinity"):
        code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        code += "from vqnmt.data.workers import available_cores; print(available_cores())"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        assert found.stdout == b"1\n"
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_of_a_large_corpus_a_sample_is_learnt_from(monkeypatch):
    """It is spread over the whole text, and follows from the seed."""
    sentences = [f"{_WORDS[i % len(_WORDS)]} {i}" for i in range(4000)]
    limit = sum(map(len, sentences)) // 4
    monkeypatch.setattr(module, "_CHARACTERS", limit)
    given: list[list[str]] = []

    def read(sentence_iterator, **options):
        given.append(list(sentence_iterator))
        raise RuntimeError("enough")

    with mock.patch("sentencepiece.SentencePieceTrainer.Train", read):
        for seed in (1, 1, 2):
            with pytest.raises(VqnmtError, match="enough"):
                Vocabulary.train(sentences, 300, seed=seed)
    assert given[0] == given[1] != given[2]
    positions = [sentences.index(sentence) for sentence in given[0]]
    assert positions == sorted(positions)
    assert 900 < len(positions) < 1100 and 1800 < sum(positions) / len(positions) < 2200


def test_a_vocabulary_of_no_text_is_refused():
    with pytest.raises(VqnmtError, match="no text"):
        Vocabulary.train(["", "  "], 400)


def test_loading_what_is_no_vocabulary(tmp_path):
    with pytest.raises(VqnmtError, match=r"spm\.model: cannot be read"):
        Vocabulary.load(tmp_path / "spm.model")
    (tmp_path / "spm.model").write_bytes(b"not a model")
    with pytest.raises(VqnmtError, match=r"spm\.model: the vocabulary is no sentencepiece .*: put"):
        Vocabulary.load(tmp_path / "spm.model")


@pytest.mark.parametrize("values", [{"size": 200}, {"model_type": "word"}])
def test_config_names_the_key(values):
    with pytest.raises(VqnmtError, match=f"vocabulary.{next(iter(values))}"):
        VocabularyConfig(**values)
