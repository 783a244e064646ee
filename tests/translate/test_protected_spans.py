"""Spans come through a translation whatever the model does, or a warning says what happened."""

import time
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vqnmt.data.vocabulary import Vocabulary
from vqnmt.decode.settings import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.spans import SLOT, missing_spans, slot
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.parts import cut, join
from vqnmt.translate.translation import Translation

LINES = [f"Press the button {i % 7} of {{name}}, then wait. Done already" for i in range(100)]
A, B = slot(0), slot(1)
Write = Callable[[str], list[str]]


@cache
def learnt(slots: int) -> Vocabulary:
    return Vocabulary.train(LINES, 285 if slots else 293, slots=slots)


class Scripted(BatchTranslator):
    """Writes what `write` makes of the source that the model sees, the best candidate first."""

    def __init__(self, slots: int, write: Write, **further: object) -> None:
        super().__init__(learnt(slots), "en", "de", **further)  # type: ignore[arg-type]
        self.write = write
        self.seen: list[str] = []

    def find(self, rows: list[list[int]], settings: SearchSettings) -> list[list[Translation]]:
        found = []
        for text in self.vocabulary.decode(rows):
            self.seen.append(text)
            written = self.vocabulary.encode(self.write(text)[: settings.candidates])
            found.append([Translation("", -i, tokens=row) for i, row in enumerate(written)])
        return found


def echo(text: str) -> list[str]:
    return [text]


def without_slots(text: str) -> list[str]:
    return [SLOT.sub("", text)]


def test_the_model_sees_slots_and_new_names_come_back_as_old_ones() -> None:
    translator = Scripted(4, lambda text: [f"Von {B} {A}"])
    for first, second in [("{name}", "%s"), ("<a href='never seen'>", "{{ x['y'] }}")]:
        (found,) = translator.translate([f"Press {first} of {second}"])
        assert found == Translation(f"Von {second} {first}", 0, tokens=found.tokens)
    assert translator.seen == [f"Press {A} of {B}"] * 2


def test_a_number_comes_back_as_the_source_has_it() -> None:
    translator = Scripted(4, echo)
    text = "Wait 21.5 °C, $1,299.99 or 21,5\u00a0°C"
    assert translator.translate([text])[0].text == text


def test_an_escape_for_a_new_line_parts_lines_as_a_new_line_does() -> None:
    translator = Scripted(4, lambda text: [text.upper()])
    (found,) = translator.translate([r"line 1\nline {x}\r\n\nready. go\tnow"])
    assert found.text == r"LINE 1\nLINE {x}\r\n\nREADY. GO\tNOW"
    assert sorted(translator.seen) == sorted([f"line {A}", f"line {A}", "ready.", f"go{A}now"])


def test_many_escapes_for_new_lines_take_linear_time() -> None:
    start = time.process_time()
    cut(r"\n" * 20_000 + "{a}", "en", 4)
    assert time.process_time() - start < 5


def test_the_next_candidate_is_taken() -> None:
    translator = Scripted(4, lambda text: ["Taste", f"{A}{A} Taste", f"Taste {A}"])
    (found,) = translator.translate(["Press {x}"])
    assert (found.text, found.warnings, found.score) == ("Taste {x}", [], -2)
    ranked = translator.n_best(["Press {x}"], SearchSettings(candidates=3))[0]
    assert [one.text for one in ranked] == ["Taste {x}", "Taste", "{x}{x} Taste"]
    assert ranked[1].warnings == ["lacks {x}"]
    assert ranked[2].warnings == ["has {x} of its own"]


def test_then_the_teacher_and_then_the_text_around_the_spans() -> None:
    student = Scripted(4, lambda text: [SLOT.sub("", text).title()])
    student.log_probabilities = lambda rows, targets: [[0.0] * len(row) for row in targets]  # type: ignore[method-assign]
    teacher = Scripted(2, lambda text: [f"Lehrer {A}"])
    teacher.log_probabilities = student.log_probabilities  # type: ignore[method-assign]
    (found,) = student.translate(["press {x}"], rescorer=teacher)
    assert (found.text, found.warnings) == ("Lehrer {x}", [])
    assert found.teacher_score == found.score == 0.0  # the teacher's own
    (found,) = student.translate(["press: {x} (button {y})."])
    assert found.text == "Press: {x} (Button {y})."
    assert found.warnings == ["translated around {x}, {y}"]
    assert found.score == student.translate(["press", "button"], repair=False)[0].score
    (found,) = student.translate(["press {x}"], repair=False)
    assert (found.text, found.warnings) == ("Press", ["lacks {x}"])


def test_a_slot_without_a_span_is_left_out_and_a_lost_word_is_not_silent() -> None:
    (found,) = Scripted(4, lambda text: [f"Taste {B}"]).translate(["Press"])
    assert (found.text, found.warnings) == ("Taste", ["a span that it made up is left out"])
    (found,) = Scripted(4, lambda text: [""]).translate(["Press"])
    assert (found.text, found.warnings) == ("Press", ["left as it is: the model wrote nothing"])
    (found,) = Scripted(4, lambda text: ["Taste 5"]).translate(["Press"])
    assert (found.text, found.warnings) == ("Taste 5", ["has 5 of its own"])


def test_a_model_without_slots_keeps_spans_too() -> None:
    translator = Scripted(0, lambda text: [text.replace("{", "")])
    assert translator.vocabulary.slots == 0
    (found,) = translator.translate(["Press {x} now"])
    assert found.text == "Press {x} now"
    assert sorted(translator.seen) == ["Press", "Press {x} now", "Press {x} now", "now"]
    intact = Scripted(0, echo)
    assert intact.translate(["Press {x} now"])[0].warnings == []
    assert intact.seen == ["Press {x} now"]


@pytest.mark.parametrize("slots", [0, 3])
@pytest.mark.parametrize("write", [echo, without_slots])
@pytest.mark.parametrize(
    "text",
    [
        "Press {a} {b} {c} {d} and {e}",
        "Press" + " {x}" * 500 + " now",
        "{a}{b}" * 500 + " now",
        "%s" * 500 + " now",
        "🎉 Press {a now ✅ <b never",
        "{n, plural, one {# {x}} other {# {y}}} of {z}",
        "{ {a} <b never closed { }}",
        "שלום {name}, \u202b<b>שלום</b>\u202c a\u0301 {e\u0301}",
        "One {a}.  Two {b}!\n\n\t- Three <i>c</i>? Four",
    ],
)
def test_nothing_is_lost(slots: int, write: Write, text: str) -> None:
    (found,) = Scripted(slots, write, on_long="split").translate([text])
    assert missing_spans(text, found.text) == []


@pytest.mark.parametrize("slots", [0, 3])
def test_a_source_of_spans_alone_comes_back_as_it_is(slots: int) -> None:
    translator = Scripted(slots, lambda text: ["never"])
    texts = ["{name}", "%s: {a}  {b}", "<br/>&nbsp;", "`a b c`", "12.5 °C", "{a}\n{b}", "{" * 9]
    assert [one.text for one in translator.translate(texts)] == texts
    assert translator.seen == []


def test_the_pattern_of_the_user_is_a_span() -> None:
    translator = Scripted(4, without_slots, span_patterns=["Home Assistant"])
    (found,) = translator.translate(["press Home Assistant"])
    assert found.text == "press Home Assistant"
    assert translator.seen[0] == f"press {A}"


def test_sentences_and_lines_are_translated_one_by_one_and_joined_as_they_stood() -> None:
    translator = Scripted(4, lambda text: [text.title()])
    text = "press it. wait, e.g. a bit!\n\n  - then {x}.  done"
    (found,) = translator.translate([text])
    assert found.text == text.title().replace("{X}", "{x}")
    parts = ["press it.", "wait, e.g. a bit!", f"- then {A}.", "done"]
    assert sorted(translator.seen) == sorted(parts)


@settings(max_examples=150)
@given(
    st.lists(
        st.sampled_from(
            ["Go on", "{a}", " ", ".", "? ", "\n", "<b>", "e.g.", "。", "好", "5", "("]
        ),
        max_size=12,
    ).map("".join),
    st.integers(0, 2),
)
@example("A {a}. B", 1)
def test_parts_join_to_the_text(text: str, slots: int) -> None:
    parts = cut(text, "en", slots)
    joined = join(parts, [part.source for part in parts])
    assert joined.replace(" ", "") == text.strip().replace(" ", "")
    if slots:
        assert all(len(part.spans) <= slots for part in parts)


def test_a_pattern_that_is_no_regular_expression_is_refused() -> None:
    with pytest.raises(VqnmtError, match=r"span_patterns is '\(', which is no regular expression"):
        Scripted(4, echo, span_patterns=["("])
