"""What all fuzz tests share: success or one sentence of ours, and nothing half-written.

VQNMT_FUZZ=20 in the environment runs 20 times as many cases, other ones each time.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from vqnmt.errors import VqnmtError

FACTOR = int(os.environ.get("VQNMT_FUZZ", "1"))


def fuzz(examples: int) -> Callable[[Any], Any]:
    """Settings of a fuzz test: the same cases every time, as many as asked for."""
    return settings(
        max_examples=examples * FACTOR,
        deadline=None,
        derandomize=FACTOR == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def attempt(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return what `function` returns, or its VqnmtError; any other exception is a bug."""
    try:
        return function(*arguments, **options)
    except VqnmtError as error:
        text = str(error)
        assert text.strip() and "\n" not in text and "Traceback" not in text, text
        assert len(text) < 1000, text
        return error


def leftovers(folder: Path) -> list[str]:
    """Files that a writer has begun and not ended."""
    return [path.name for path in folder.rglob("*") if path.name.startswith(".")]


LARGE = [-(2**63), 2**31, 2**63, 10**30, 10**400]

# What YAML, JSON and the command line can bring instead of the right value.
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 70),
        st.sampled_from(LARGE),
        st.floats(allow_nan=True, allow_infinity=True),
        st.sampled_from([0.0, -0.5, 0.1, 1.0, 1.5]),
        st.sampled_from(["", " ", "own", "ema", "files", "multi30k", "cosine", "../x", "a\nb"]),
        st.text(max_size=4),
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)


def like(value: Any) -> st.SearchStrategy[Any]:
    """Values of any kind, and as many of the kind of `value`."""
    kinds: dict[type, st.SearchStrategy[Any]] = {
        int: st.integers(-3, 70) | st.sampled_from(LARGE),
        float: st.floats() | st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.5]),
        list: st.lists(VALUES, max_size=3),
    }
    return VALUES | kinds.get(type(value), VALUES)


def damaged(content: bytes) -> st.SearchStrategy[bytes | None]:
    """Ways in which a file comes back from a bad disk or copy; None: not at all."""
    size = len(content)

    def flipped(places: list[tuple[int, int]]) -> bytes:
        changed = bytearray(content)
        for place, bit in places:
            changed[place] ^= 1 << bit
        return bytes(changed)

    places = st.tuples(st.integers(0, size - 1), st.integers(0, 7))
    # The head of a file holds what steers its reader.
    heads = st.tuples(st.integers(0, min(size, 300) - 1), st.integers(0, 7))
    return st.one_of(
        st.none(),
        st.just(b""),
        st.integers(0, size - 1).map(lambda cut: content[:cut]),
        st.lists(places, min_size=1, max_size=4).map(flipped),
        st.lists(heads, min_size=1, max_size=4).map(flipped),
        st.tuples(st.integers(0, size), st.binary(min_size=1, max_size=9)).map(
            lambda insert: content[: insert[0]] + insert[1] + content[insert[0] :]
        ),
        st.binary(max_size=40),
    )
