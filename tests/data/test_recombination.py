"""Made-up sentences, against their definition: neighbours, parents, what may not come out."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqnmt.data import recombination
from vqnmt.data.recombination import recombine

CAPTIONS = [
    "A man in a hat reads .",
    "Two dogs in a small boat .",
    "A man sleeps in a red car .",
    "The girl in a small car laughs .",
]


def triples(sentence: str) -> set[tuple[str, ...]]:
    words = sentence.split()
    return set(zip(words, words[1:], words[2:], strict=False))


@given(
    st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=9).map(" ".join), max_size=8),
    st.integers(0, 20),
    st.integers(0, 5),
)
def test_every_three_neighbours_are_neighbours_in_a_parent(sentences, count, seed) -> None:
    found = recombine(sentences, count, seed)
    known = set().union(*map(triples, sentences))
    assert len(found) <= count and len(set(found)) == len(found)
    assert not set(found) & set(sentences)
    for sentence in found:
        assert triples(sentence) <= known
        assert any(sentence.split()[:3] == parent.split()[:3] for parent in sentences)
        assert any(sentence.split()[-3:] == parent.split()[-3:] for parent in sentences)


def all_combinations(sentences: list[str]) -> set[str]:
    """Join every beginning with every end that shares the two words at the cut."""
    rows = [sentence.split() for sentence in sentences]
    found = set()
    for first in rows:
        for second in rows:
            for i, one in enumerate(pairwise(first[1:-1]), 1):
                for j, other in enumerate(pairwise(second[1:-1]), 1):
                    if one == other:
                        found.add(" ".join(first[:i] + second[j:]))
    return found - set(sentences)


def test_all_that_can_be_made_is_made_and_nothing_else() -> None:
    assert set(recombine(CAPTIONS, 500, seed=1)) == all_combinations(CAPTIONS)


def test_a_script_without_blanks_is_taken_apart_by_characters() -> None:
    found = recombine(
        ["一只大狗在小船上。", "我们的小船上有三个人。", "Tom在小船 A 里。"], 500, seed=1
    )
    assert {"一只大狗在小船上有三个人。", "Tom在小船上有三个人。", "一只大狗在小船 A 里。"} <= set(
        found
    )
    assert not any(" " in one.replace(" A ", "") for one in found)


def test_the_seed_decides() -> None:
    first, again, other = (recombine(CAPTIONS, 5, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 5


def test_a_held_out_sentence_does_not_come_out_in_any_spelling() -> None:
    taken = "a MAN  in a small car laughs ."
    assert "A man in a small car laughs ." in recombine(CAPTIONS, 500, seed=1)
    assert "A man in a small car laughs ." not in recombine(CAPTIONS, 500, 1, [taken])


def test_of_many_sentences_some_are_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recombination, "PARENTS", 2)
    assert set(recombine(CAPTIONS, 500, seed=1)) < all_combinations(CAPTIONS)


@pytest.mark.parametrize("sentences", [[], ["", "a"], ["too few words"]])
def test_sentences_without_an_inside_give_none(sentences: list[str]) -> None:
    assert recombine(sentences, 10, seed=1) == []
