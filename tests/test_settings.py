"""Plain mappings to typed settings, with the key in every error."""

import math
from dataclasses import InitVar, dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from vqnmt.commands.fields import field_docs
from vqnmt.errors import VqnmtError
from vqnmt.settings import (
    PositiveInt,
    Settings,
    above,
    at_least,
    below,
    between,
    check,
    from_mapping,
    matching,
    to_flat,
    to_mapping,
)


@dataclass(kw_only=True)
class Inner(Settings):
    group: InitVar[str] = "inner"
    rate: Annotated[float, at_least(0)] = 0.5
    size: Annotated[int, between(1, 5000)] | None = None
    kind: Literal["plain", "odd"] = "plain"
    sizes: list[PositiveInt] = field(default_factory=list)

    def __post_init__(self, group: str) -> None:
        check(self, group)
        if self.kind == "odd" and (self.size or 1) % 2 == 0:
            raise VqnmtError(f"{group}.size is {self.size}; set it to 1 or {group}.kind=plain")


@dataclass(kw_only=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    flag: bool = False
    words: list[str] = field(default_factory=list)
    further: Any = None


def test_builds_nested_dataclasses() -> None:
    built = from_mapping(
        Outer, {"name": "x", "inner": {"rate": 1, "size": None}, "words": ["a"], "further": 3}
    )
    assert built == Outer(name="x", inner=Inner(rate=1.0), words=["a"], further=3)
    assert isinstance(built.inner.rate, float), "YAML writes 1 for 1.0"
    assert from_mapping(Outer, {"name": "x", "inner": Inner(rate=2.0)}).inner.rate == 2.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "^name is missing"),
        ({"name": "x", "flagg": True}, "^flagg is not a known key: did you mean flag"),
        ({"name": "x", "zzz": True}, "^zzz is not a known key: choose among name, inner"),
        ({"name": "x", "inner": {"size": 1.5}}, r"^inner\.size is 1\.5 \(float\): .* int or None"),
        (
            {"name": "x", "inner": {"raet": 1}},
            r"^inner\.raet is not a known key: did you mean rate",
        ),
        ({"name": "x", "inner": 3}, "^inner is 3: it must be a group"),
        ({"name": "x", "inner": {"rate": -1}}, r"^inner\.rate is -1; it must be 0 or more"),
        ({"name": "x", "inner": {"size": 5001}}, r"^inner\.size is 5001; .* from 1 to 5,000$"),
        ({"name": "x", "inner": {"kind": "a"}}, r"^inner\.kind is 'a'; choose one of plain, odd$"),
        ({"name": "x", "inner": {"sizes": [1, 0]}}, r"^inner\.sizes\[1\] is 0; .* 1 or more$"),
        ({"name": 3}, r"^name is 3 \(int\): it must be of type str"),
        ({"name": "x", "flag": 1}, r"^flag is 1 \(int\): it must be of type bool"),
        ({"name": "x", "inner": {"size": True}}, r"^inner\.size is True \(bool\)"),
        ({"name": "x", "inner": {"rate": True}}, r"^inner\.rate is True \(bool\)"),
        ({"name": "x", "words": "a"}, "^words is 'a' .*list"),
        ({"name": None}, "^name is None"),
        ({"name": "x", "words": ["a", None]}, r"^words\[1\] is None \(NoneType\).*type str"),
        ({"name": "x", "inner": {"rate": 10**400}}, r"^inner\.rate is a number beyond 2\^63"),
        ({"name": "x", "inner": {"size": -(2**63)}}, r"^inner\.size is a number beyond 2\^63"),
        ({"name": "x", "odd\nkey": 1}, r"^'odd\\nkey' is not a known key"),
    ],
)
def test_errors_name_the_key(values: dict, message: str) -> None:
    with pytest.raises(VqnmtError, match=message):
        from_mapping(Outer, values)


def test_fields_that_depend_on_each_other_are_named_where_they_stand() -> None:
    values = {"name": "x", "inner": {"kind": "odd", "size": 2}}
    with pytest.raises(VqnmtError) as caught:
        from_mapping(Outer, values, "a.b")
    assert str(caught.value) == "a.b.inner.size is 2; set it to 1 or a.b.inner.kind=plain"
    with pytest.raises(VqnmtError, match=r"^inner\.size is 2; set it to 1 or inner\.kind=plain$"):
        Inner(kind="odd", size=2)
    with pytest.raises(VqnmtError, match=r"^inner\.size is 4;"):
        replace(Inner(kind="odd", size=3), size=4)


def test_a_dataclass_that_stands_alone_is_named_where_it_stands() -> None:
    """As quantizers are, which know nothing of settings."""

    @dataclass
    class Alone:
        size: int = 1

        def __post_init__(self) -> None:
            raise VqnmtError(f"alone.size is {self.size}: set alone.size=2")

    with pytest.raises(VqnmtError) as caught:
        from_mapping(Alone, {}, "outer.alone")
    assert str(caught.value) == "outer.alone.size is 1: set outer.alone.size=2"


def test_settings_made_in_python_are_checked_and_converted() -> None:
    made = Inner(rate=1, size=np.int64(7))  # type: ignore[arg-type]
    assert (type(made.rate), type(made.size)) == (float, int)
    with pytest.raises(VqnmtError, match=r"^inner\.rate is 'x' \(str\): it must be of type float"):
        Inner(rate="x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("constraint", "allowed", "refused", "words"),
    [
        (between(1, 5000), [1, 5000], [0, 5001, math.nan], "from 1 to 5,000"),
        (at_least(0), [0, 1e300], [-1e-9, math.inf, math.nan], "0 or more"),
        (above(0), [1e-9, math.inf], [0, -1, math.nan], "above 0"),
        (below(0.5), [0.4, -1], [0.5, math.nan], "below 0.5"),
        (matching("[a-z]+", "letters"), ["ab"], ["", "a1", "ab\n"], "letters"),
    ],
)
def test_a_constraint_holds_for_what_its_words_say(
    constraint: Any, allowed: list, refused: list, words: str
) -> None:
    assert all(constraint.holds(value) for value in allowed) and constraint.words == words
    assert not any(constraint.holds(value) for value in refused)


@dataclass(kw_only=True)
class Place:
    """Where a group of settings has defaults of its own."""

    inner: Inner = field(default_factory=lambda: Inner(rate=2.0, size=3))
    count: int = 1


def test_a_group_keeps_the_defaults_of_its_place() -> None:
    assert from_mapping(Place, {"inner": {"rate": 4}}).inner == Inner(rate=4.0, size=3)
    assert from_mapping(Place, {}).inner == Place().inner
    inner = {"rate": 2.0, "size": 3, "kind": "plain", "sizes": []}
    assert to_mapping(Place) == {"inner": inner, "count": 1}
    assert to_mapping(Place(count=5)) == to_mapping(Place) | {"count": 5}
    assert to_mapping(Outer)["words"] == [] and "name" not in to_mapping(Outer)


def test_the_sentence_below_each_field() -> None:
    with pytest.raises(KeyError, match="inner"):
        field_docs(Place)  # every setting must have one
    assert field_docs(Described, "a") == {
        "a.here": "The first sentence, e.g. this one of two lines.",
        "a.count": "How many.",
    }
    assert field_docs(Changed)["count"] == "How many." and field_docs(Changed)["here"] == "Other."


@dataclass(kw_only=True)
class Described:
    here: int = 0
    """The first sentence, e.g. this one
    of two lines. Not the second one."""
    count: int = 1
    """How many."""
    hidden: int = field(init=False, default=1)


@dataclass(kw_only=True)
class Changed(Described):
    count: int = 2
    here: int = 1
    """Other."""


def test_keys_of_nested_groups_are_joined_by_dots() -> None:
    assert to_flat({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {
        "a.b.c": 1,
        "a.d": [2],
        "e": None,
    }
