import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqnmt.data.corpus_filter import OUTCOMES, CorpusFilter
from vqnmt.data.filters import PairFilter
from vqnmt.data.normalization import sentence_key
from vqnmt.errors import VqnmtError
from vqnmt.splits import HashSplit


def test_filter_at_its_limits():
    fit = PairFilter(max_words=3, max_ratio=2.0)
    assert fit.reason("a b c", "d") is None
    assert fit.reason("a", "a b c d") == "too long"
    assert fit.reason("", "a") == fit.reason("a", "") == "empty"
    # (30 + 10) / (10 + 10) is the limit itself.
    assert fit.reason("x" * 30, "y" * 10) is None
    assert fit.reason("y" * 10, "x" * 31) == "length ratio"
    # The limit is milder for short labels: 9 characters for 1 is 19 / 11.
    assert fit.reason("A", "Abbrechen") is None


@pytest.mark.parametrize("limits", [{"max_words": 0}, {"max_ratio": 1.0}])
def test_impossible_limits_name_their_key(limits):
    with pytest.raises(VqnmtError, match=f"corpus.{next(iter(limits))}"):
        PairFilter(**limits)


def test_key_ignores_case_width_and_spaces():
    assert sentence_key("Straße  ﬁx") == sentence_key("STRASSE\u00a0fix") == "strasse fix"
    assert sentence_key("a b") != sentence_key("ab")


def test_the_split_is_the_one_of_all_other_machines():
    # Written down once: if this fails, every user's test set has moved into the training set.
    split = HashSplit(valid_share=0.1, test_share=0.1)
    parts = [split.part(f"the cat sits on the mat {number}") for number in range(40)]
    assert [number for number, part in enumerate(parts) if part == "valid"] == [1, 4, 10, 16, 26]
    assert [number for number, part in enumerate(parts) if part == "test"] == [25]


def test_shares_are_met_and_changing_one_leaves_the_other():
    keys = [f"a sentence with the number {number}" for number in range(10_000)]
    first = HashSplit(valid_share=0.1, test_share=0.2)
    second = HashSplit(valid_share=0.1, test_share=0.05)
    parts = [(first.part(key), second.part(key)) for key in keys]
    # Five standard deviations of a binomial count: 5 * sqrt(10000 * p * (1 - p)).
    assert abs(sum(part[0] == "valid" for part in parts) - 1000) < 150
    assert abs(sum(part[0] == "test" for part in parts) - 2000) < 200
    assert {part for part in parts if "valid" in part} == {("valid", "valid")}
    assert ("train", "test") not in parts


@given(st.text(alphabet="ab ", max_size=12).filter(str.strip))
def test_short_sentences_are_for_training(text):
    split = HashSplit(valid_share=0.5, test_share=0.5)
    fit = PairFilter(max_words=100, max_ratio=100.0)
    none = HashSplit(valid_share=0.0, test_share=0.0)
    judge = CorpusFilter(
        split=split, label_split=none, min_words=4, fit=fit, drop_copies=False, official={}
    )
    arrays = judge([(text, "ein Satz", 1)])
    part, _ = OUTCOMES[int(arrays["outcomes"][0])]
    assert (part == "train") == (len(text.split()) < 4)
