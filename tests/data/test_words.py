"""Words and characters as measures; sentences joined as their scripts want it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqnmt.data.normalization import normalize
from vqnmt.data.words import count_words, join_sentences, split_words


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("A man in a hat.", 5),
        ("Größe: 3 m²", 3),
        ("안녕 하세요", 2),  # Korean has blanks
        ("你好，世界。", 6),
        ("日本語のテキスト", 8),
        ("使用 Python 编程", 5),
        ("使用Python编程", 5),
        ("สวัสดีครับ", 7),  # vowels above and below are marks
        ("ខ្ញុំ", 2),
        ("မြန်မာ", 3),
        ("ສະບາຍດີ", 6),
        ("葛\U000e0100城", 2),
    ],
)
def test_as_many_words_are_counted_as_are_split(text: str, count: int) -> None:
    assert count_words(text) == count == len(split_words(text))
    assert "".join(split_words(text)) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_parts_are_the_text_and_where_there_are_blanks_they_are_its_words(text: str) -> None:
    text = normalize(text)
    parts = split_words(text)
    assert "".join(parts) == text and count_words(text) == len(parts) >= len(text.split())
    spaced = "".join(letter for letter in text if letter < "\u0e00")
    assert [part.strip() for part in split_words(normalize(spaced))] == spaced.split()


def test_sentences_are_joined_as_their_script_wants_it() -> None:
    assert join_sentences(["", "A b.", "", "C d."]) == "A b. C d."
    assert join_sentences(["你好。", "世界。"]) == "你好。世界。"
    assert join_sentences(["สวัสดี", "ครับ"]) == "สวัสดีครับ"
    assert join_sentences(["안녕.", "하세요."]) == "안녕. 하세요."
    assert join_sentences([]) == join_sentences([""]) == ""
