"""Plain mappings to typed settings, with the key in every error."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from vqnmt.errors import VqnmtError
from vqnmt.settings import field_docs, from_mapping, to_flat, to_mapping


@dataclass(kw_only=True)
class Inner:
    rate: float = 0.5
    size: int | None = None

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise VqnmtError(f"rate is {self.rate}; it must be 0 or more")


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
        ({"name": "x", "inner": {"rate": -1}}, r"^inner\.rate is -1\.0; it must be 0 or more"),
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


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("size is 1", "outer.inner.size is 1"),
        (
            "kind.size is 1: set kind.rate=2 in kind.",
            "outer.inner.size is 1: set outer.inner.rate=2 in kind.",
        ),
        ("outer.inner.size is 1", "outer.inner.size is 1"),
        ("file x: no such file", "outer.inner: file x: no such file"),
    ],
)
def test_errors_of_a_dataclass_say_where_it_stands(message: str, expected: str) -> None:
    @dataclass
    class Kind:
        size: int = 1
        rate: float = 1.0

        def __post_init__(self) -> None:
            raise VqnmtError(message)

    with pytest.raises(VqnmtError) as caught:
        from_mapping(Kind, {}, "outer.inner")
    assert str(caught.value) == expected


@dataclass(kw_only=True)
class Place:
    """Where a group of settings has defaults of its own."""

    inner: Inner = field(default_factory=lambda: Inner(rate=2.0, size=3))
    count: int = 1


def test_a_group_keeps_the_defaults_of_its_place() -> None:
    assert from_mapping(Place, {"inner": {"rate": 4}}).inner == Inner(rate=4.0, size=3)
    assert from_mapping(Place, {}).inner == Place().inner
    assert to_mapping(Place) == {"inner": {"rate": 2.0, "size": 3}, "count": 1}
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


def test_flat() -> None:
    assert to_flat({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {
        "a.b.c": 1,
        "a.d": [2],
        "e": None,
    }
