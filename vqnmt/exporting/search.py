"""Greedy search and beam search as loops within an ONNX graph, see `vqnmt.decode.search`.

Shapes: B sentences, k hypotheses for each, R rows of a step (B, or B * k), V symbols, t steps so
far, H heads of width d / H. Of the symbols 0 .. V - 1 those from K on end a sequence; as the input
of a step K means the begin. If V = K + 1, the end is no part of the sequence; if V = 2K, K + s is s
as the last one. The graph has the input `limits` (B,) int64, the most symbols of each sentence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from vqnmt.exporting.graph import BOOL, FLOAT, INT32, INT64, Graph, Values

BEAM_DEFAULTS: dict[str, NDArray[Any]] = {
    "beam": np.array([1]),
    "candidates": np.array([1]),
    "length_penalty": np.array(1, dtype=np.float32),
}
"""Inputs of `beam_search`: hypotheses kept, how many of them are returned, and the exponent of the
length that divides the log-probability of finished ones."""

# Fills up shorter sequences whose last symbol is not always the same.
_FILLING = -1
_LAST = (1 << 63) - 1  # the end of a slice that takes everything to the end


@dataclass(frozen=True, slots=True)
class Stepper:
    """A model that scores the next symbol."""

    first: Callable[[str], tuple[str, list[str]]]
    """Writes the first step, whose input is the begin, for rows (1,); returns what `write` does."""
    write: Callable[[Graph, list[str], str], tuple[str, list[str]]]
    """Writes a step into the body of a loop, which has the value `last` (R, 1) int64, the symbols
    before, K or less. Takes the caches and the number of the step, () int64; returns logits
    (R, 1, V) and the caches with one more position."""
    caches: int
    """How many caches there are; each is (R, H, t, d / H)."""
    heads: int
    head_dim: int
    end: int
    """K."""
    joint: bool
    """Whether V is 2K, and not K + 1."""

    @property
    def symbols(self) -> int:
        """V."""
        return 2 * self.end if self.joint else self.end + 1

    def start(self, graph: Graph, rows: str) -> list[str]:
        """Write empty caches for `rows` (1,)."""
        width = graph.constant([self.heads, 0, self.head_dim])
        empty = graph.op("ConstantOfShape", graph.op("Concat", rows, width, axis=0))
        return [empty] * self.caches

    def declared(self) -> Values:
        """Declare the caches as values of the loop's body."""
        shape = ["R", self.heads, "t", self.head_dim]
        return {f"cache{i}": (FLOAT, shape) for i in range(self.caches)}

    def ends(self, graph: Graph, symbols: str) -> str:
        """Say which symbols end a sequence."""
        return graph.op("GreaterOrEqual", symbols, graph.constant(self.end))

    def going(self, graph: Graph) -> str:
        """Name the mask (1, 1, V) of the symbols that go on."""
        return graph.constant(np.arange(self.symbols)[None, None] < self.end)


def greedy_search(
    graph: Graph, stepper: Stepper, steps: str, alone: bool, given: str = ""
) -> tuple[str, str, str, str]:
    """Write the search for the likeliest symbol at each step, until all sentences have ended.

    Args:
        graph: Where to.
        stepper: The model; R = B.
        steps: Table 0, 1, ..., not shorter than any limit.
        alone: Whether B is 1.
        given: With `alone`: the first symbols (G,), taken as they are.

    Returns:
        Sequences (B, L), how many of their places are real (B,), their log-probability (B,), and
        the log-probabilities of all symbols at each step (steps, B, 1, V). L is 1 or more.
    """
    end, one = graph.constant(stepper.end), graph.constant([1])
    final = ""  # the step at which a sequence must end, (B, 1, 1)
    if stepper.joint:
        final = graph.op("Unsqueeze", graph.op("Sub", "limits", one), graph.constant([1, 2]))
    logits, caches = stepper.first(graph.size("limits", 0))
    symbols = _choose(graph, stepper, logits, graph.constant(0), final, given)
    alive = graph.op("Less", symbols, end)
    most = graph.op("Sub", graph.op("ReduceMax", "limits", keepdims=0), graph.constant(1))
    *_, further, further_logits = graph.ops(
        "Loop",
        4 + len(caches),
        *(most, _any(graph, alive, alone)),
        *(_following(graph, stepper, symbols, alone), alive, *caches),
        body=_greedy_step(graph.body(), stepper, alone, given, final),
    )
    zero = graph.constant([0])
    symbols = graph.op("Concat", graph.op("Unsqueeze", symbols, zero), further, axis=0)
    logits = graph.op("Concat", graph.op("Unsqueeze", logits, zero), further_logits, axis=0)
    # (steps, B, 1), (steps, B, 1, V)
    every = graph.op("LogSoftmax", logits, axis=3)
    if given or stepper.joint:  # not always the likeliest
        chosen = graph.op("Unsqueeze", symbols, graph.constant([3]))
        log_p = graph.op("GatherElements", every, chosen, axis=3)
        log_p = graph.op("Squeeze", log_p, graph.constant([2, 3]))
    else:
        log_p = graph.op("ReduceMax", every, graph.constant([2, 3]), keepdims=0)
    log_p = graph.op("Transpose", log_p)  # (B, steps)
    symbols = graph.op("Transpose", graph.op("Squeeze", symbols, graph.constant([2])))
    if alone and stepper.joint:
        score = graph.op("ReduceSum", log_p, one, keepdims=0)
        symbols = graph.op("Mod", symbols, end)
        return symbols, graph.size(symbols, 1), score, every
    ends = graph.op("Cast", stepper.ends(graph, symbols), to=INT64)  # (B, steps)
    if alone:  # the last step, and no other, may be an end
        count = graph.op(
            "Sub", graph.size(symbols, 1), graph.op("ReduceSum", ends, one, keepdims=0)
        )
    else:
        # A step holds a symbol while it is below the limit and no end has come, itself included.
        places = graph.head(steps, graph.size(symbols, 1))
        below = graph.op("Less", places, graph.op("Unsqueeze", "limits", one))
        # With a joint end the symbol that ends is one too.
        sums = graph.op("CumSum", ends, one, exclusive=int(stepper.joint))
        before = graph.op("Equal", sums, graph.constant(0))
        real = graph.op("Cast", graph.op("And", below, before), to=INT64)
        count = graph.op("ReduceSum", real, one, keepdims=0)
        if stepper.joint:
            symbols, scored = graph.op("Mod", symbols, end), real
        else:  # an end is scored too: it is the step after the last symbol, if below the limit
            scored = graph.op("LessOrEqual", places, graph.op("Unsqueeze", count, one))
            scored = graph.op("And", scored, below)
        log_p = graph.op("Mul", log_p, graph.op("Cast", scored, to=FLOAT))
    score = graph.op("ReduceSum", log_p, one, keepdims=0)
    return _cut(graph, symbols, count), count, score, every


def _greedy_step(
    graph: Graph, stepper: Stepper, alone: bool, given: str, final: str
) -> onnx.GraphProto:
    """Write the body of the loop of `greedy_search`, which begins with the second step."""
    names = stepper.declared()
    place = graph.op("Add", "step", graph.constant(1))
    logits, caches = stepper.write(graph, list(names), place)
    symbols = _choose(graph, stepper, logits, place, final, given)
    alive = graph.op("And", "alive", graph.op("Less", symbols, graph.constant(stepper.end)))
    last, flag = (INT64, ["R", 1]), (BOOL, ["R", 1])
    return graph.proto(
        {"step": (INT64, []), "going": (BOOL, []), "last": last, "alive": flag, **names},
        {
            _any(graph, alive, alone): (BOOL, []),
            _following(graph, stepper, symbols, alone): last,
            alive: flag,
        }
        | dict(zip(caches, names.values(), strict=True))
        | {graph.op("Identity", symbols): last, logits: (FLOAT, ["R", 1, stepper.symbols])},
    )


def _choose(graph: Graph, stepper: Stepper, logits: str, step: str, final: str, given: str) -> str:
    """Choose the likeliest symbol, or what is given, at a step; returns (B, 1)."""
    allowed = logits
    if stepper.joint:
        never = graph.constant(np.float32(-np.inf))
        forbidden = graph.op("And", graph.op("Equal", step, final), stepper.going(graph))
        allowed = graph.op("Where", forbidden, never, logits)
    symbols = graph.op("ArgMax", allowed, axis=2, keepdims=0)  # (B, 1)
    if given:
        size = graph.size(given, 0)
        place = graph.op("Min", step, graph.op("Sub", size, graph.constant([1])))  # (1,)
        forced = graph.op("Less", step, size)
        symbols = graph.op("Where", forced, graph.op("Gather", given, place), symbols)
    return symbols


def _any(graph: Graph, alive: str, alone: bool) -> str:
    """Say whether any of `alive` (B, 1) is true, ()."""
    if alone:
        return graph.op("Squeeze", alive)
    any_ = graph.op("ReduceMax", graph.op("Cast", alive, to=INT32), keepdims=0)
    return graph.op("Cast", any_, to=BOOL)


def _following(graph: Graph, stepper: Stepper, symbols: str, alone: bool) -> str:
    """Return the next step's input; where a sequence has ended it does not matter."""
    if alone or not stepper.joint:
        return graph.op("Identity", symbols)
    return graph.op("Min", symbols, graph.constant(stepper.end))


def beam_search(graph: Graph, stepper: Stepper) -> tuple[str, str, str]:
    """Write a beam search with the results of `vqnmt.decode.search`.

    The graph has the inputs `BEAM_DEFAULTS` too.

    Args:
        graph: Where to.
        stepper: The model; R = B * k, the hypotheses of a sentence side by side.

    Returns:
        As `greedy_search`, with N = B * `candidates` rows, those of a sentence best first; one
        that does not exist has a log-probability of minus infinity.
    """
    one, two = graph.constant([1]), graph.constant([2])
    zero, never = graph.constant(np.float32(0)), graph.constant(np.float32(-np.inf))
    batch = graph.size("limits", 0)
    hypotheses = graph.op("Concat", batch, "beam", axis=0)
    columns = graph.op("Concat", hypotheses, one, axis=0)
    nothing = graph.op("Expand", never, hypotheses)  # (B, k)
    begins = graph.op("Expand", graph.constant(stepper.end), columns)  # (B, k, 1)
    # The hypotheses of a sentence start alike: only the first may branch at the first step.
    first = graph.op("Equal", _range(graph, "beam"), graph.constant(0))
    scores = graph.op("Expand", graph.op("Where", first, zero, never), hypotheses)
    caches = stepper.start(graph, graph.op("Mul", batch, "beam"))
    _, _, _, values, found, *_ = graph.ops(
        "Loop",
        5 + len(caches),
        *(_most_steps(graph, stepper), ""),
        *(graph.op("Reshape", begins, graph.constant([-1, 1])), scores, begins),
        *(nothing, begins, *caches),
        body=_beam_step(graph, stepper, hypotheses),
    )
    start = graph.constant([0])
    values = graph.op("Slice", values, start, "candidates", one)  # (B, N / B)
    found = graph.op("Slice", found, start, "candidates", one)
    found = graph.op("Slice", found, one, graph.constant([_LAST]), two)  # (B, N / B, L)
    # Before its end, or with it, a sequence has no filling.
    filling = graph.op("Equal", found, graph.constant(_FILLING if stepper.joint else stepper.end))
    real = graph.op("Not", filling)
    count = graph.op("ReduceSum", graph.op("Cast", real, to=INT64), two, keepdims=0)
    if stepper.joint:
        length = graph.op("Max", count, one)  # of candidates that do not exist too
        found = graph.op("Mod", found, graph.constant(stepper.end))
    else:  # below its limit a sequence has ended by itself, and its end was counted
        ended = graph.op("Less", count, graph.op("Unsqueeze", "limits", one))
        length = graph.op("Add", count, graph.op("Cast", ended, to=INT64))
    score = graph.op("Mul", values, _normaliser(graph, length))
    flat = graph.constant([-1])
    count, score = (graph.op("Reshape", x, flat) for x in (count, score))
    width = graph.op("Concat", flat, graph.size(found, 2), axis=0)
    return _cut(graph, graph.op("Reshape", found, width), count), count, score


def _beam_step(outer: Graph, stepper: Stepper, hypotheses: str) -> onnx.GraphProto:
    """Write the body of the loop of `beam_search`; `hypotheses` is (B, k) as a shape.

    From step to step it keeps `last` (R, 1); `scores` (B, k) of what goes on, best first, minus
    infinity where nothing does; its `history` (B, k, 1 + t) with the begin; and what has ended:
    `values` (B, k), best first, and `found` (B, k, 1 + t), filled up.
    """
    one, two, symbols = (outer.constant(x) for x in ([1], [2], stepper.symbols))
    never = outer.constant(np.float32(-np.inf))
    # Twice as many as needed: k of them at least go on.
    twice = outer.op("Mul", "beam", two)
    within = outer.op("Less", _range(outer, twice), "beam")  # (2k,)
    grid = outer.op("Concat", hypotheses, outer.constant([stepper.symbols]), axis=0)
    base = outer.op("Mul", _range(outer, outer.size("limits", 0)), "beam")
    base, bounds = (outer.op("Unsqueeze", x, one) for x in (base, "limits"))  # (B, 1)

    graph, names = outer.body(), stepper.declared()
    logits, caches = stepper.write(graph, list(names), "step")
    graph.scope = outer.scope
    log_p = graph.op("Reshape", graph.op("LogSoftmax", logits, axis=2), grid)  # (B, k, V)
    length = graph.op("Add", "step", graph.constant(1))
    if stepper.joint:  # at its limit a sequence must end
        over = graph.op("Unsqueeze", graph.op("Equal", bounds, length), two)
        forbidden = graph.op("And", over, stepper.going(graph))
        log_p = graph.op("Where", forbidden, never, log_p)
    else:  # a sequence at its limit ends as it is, in a step that is not counted
        over = graph.op("Unsqueeze", graph.op("Less", bounds, length), two)
        forced = graph.op("Where", stepper.going(graph), never, graph.constant(np.float32(0)))
        log_p = graph.op("Where", over, forced, log_p)
    normaliser = _normaliser(graph, graph.op("Min", length, bounds))  # (B, 1)
    totals = graph.op("Add", graph.op("Unsqueeze", "scores", two), log_p)
    if stepper.joint:
        sums, flat = _best_of_both(graph, stepper, totals, twice)
    else:
        totals = graph.op("Reshape", totals, graph.constant([0, -1]))
        sums, flat = graph.ops("TopK", 2, totals, twice, axis=1)  # (B, 2k)
    parents, nexts = graph.op("Div", flat, symbols), graph.op("Mod", flat, symbols)
    pasts = _rows(graph, "history", parents)
    extended = graph.op("Concat", pasts, graph.op("Unsqueeze", nexts, two), axis=2)
    ends = stepper.ends(graph, nexts)
    # An end counts when it is among the k best, as a hypothesis of equal rank would.
    counted = graph.op("And", ends, within)
    counted = graph.op("Where", counted, graph.op("Div", sums, normaliser), never)
    pool = graph.op("Concat", "values", counted, axis=1)  # (B, 3k)
    values, kept = graph.ops("TopK", 2, pool, "beam", axis=1)
    filling = graph.constant(_FILLING if stepper.joint else stepper.end)
    longer = graph.op("Pad", "found", graph.constant([0, 0, 0, 0, 0, 1]), filling)
    found = _rows(graph, graph.op("Concat", longer, extended, axis=1), kept)

    scores, order = graph.ops("TopK", 2, graph.op("Where", ends, never, sums), "beam", axis=1)
    # Goes on while a hypothesis is better, at its present length, than all of k that have ended.
    start, behind = graph.constant([0]), graph.constant([_LAST])
    leading, best = (graph.op("Slice", x, start, one, one) for x in (scores, values))  # (B, 1)
    worst = graph.op("Slice", values, graph.constant([-1]), behind, one)
    settled = graph.op("GreaterOrEqual", best, graph.op("Div", leading, normaliser))
    settled = graph.op("And", settled, graph.op("Greater", worst, never))
    scores = graph.op("Where", settled, never, scores)
    going = graph.op("Greater", graph.op("ReduceMax", scores, keepdims=0), never)
    last, moved = (graph.op("GatherElements", x, order, axis=1) for x in (nexts, parents))
    if stepper.joint:
        last = graph.op("Min", last, graph.constant(stepper.end))
    last = graph.op("Reshape", last, graph.constant([-1, 1]))
    moved = graph.op("Reshape", graph.op("Add", moved, base), graph.constant([-1]))
    caches = [graph.op("Gather", cache, moved) for cache in caches]
    floats, integers = (FLOAT, ["B", "k"]), (INT64, ["B", "k", "t"])
    states = {"scores": floats, "history": integers, "values": floats, "found": integers, **names}
    results = (scores, _rows(graph, extended, order), values, found, *caches)
    return graph.proto(
        {"step": (INT64, []), "going": (BOOL, []), "last": (INT64, ["R", 1]), **states},
        {going: (BOOL, []), last: (INT64, ["R", 1])}
        | dict(zip(results, states.values(), strict=True)),
    )


def _best_of_both(graph: Graph, stepper: Stepper, totals: str, twice: str) -> tuple[str, str]:
    """Take the k best of `totals` (B, k, 2K) that go on, and as many that end.

    Returns:
        Their totals, falling, and their indices among k * 2K, both (B, 2k).
    """
    end, symbols = graph.constant(stepper.end), graph.constant(2 * stepper.end)
    sums, places = [], []
    for i, half in enumerate(graph.ops("Split", 2, totals, axis=2, num_outputs=2)):
        half = graph.op("Reshape", half, graph.constant([0, -1]))
        values, place = graph.ops("TopK", 2, half, "beam", axis=1)  # (B, k)
        parents = graph.op("Mul", graph.op("Div", place, end), symbols)
        symbol = graph.op("Add", graph.op("Mod", place, end), graph.constant(i * stepper.end))
        sums.append(values)
        places.append(graph.op("Add", parents, symbol))
    values, order = graph.ops("TopK", 2, graph.op("Concat", *sums, axis=1), twice, axis=1)
    return values, graph.op("GatherElements", graph.op("Concat", *places, axis=1), order, axis=1)


def _most_steps(graph: Graph, stepper: Stepper) -> str:
    """Return the most steps of a beam; one more for an end that is no part of the sequence."""
    most = graph.op("ReduceMax", "limits", keepdims=0)
    return most if stepper.joint else graph.op("Add", most, graph.constant(1))


def _cut(graph: Graph, symbols: str, count: str) -> str:
    """Cut `symbols` (B, steps) to the longest sequence; the decoder needs at least one position."""
    one = graph.constant([1])
    longest = graph.op("Max", graph.op("ReduceMax", count), one)
    return graph.op("Slice", symbols, graph.constant([0]), longest, one)


def _normaliser(graph: Graph, length: str) -> str:
    """Return length ** `length_penalty`."""
    return graph.op("Pow", graph.op("Cast", length, to=FLOAT), "length_penalty")


def _range(graph: Graph, count: str) -> str:
    """Return 0, 1, ... below `count` (1,)."""
    zero, one = graph.constant(0), graph.constant(1)
    return graph.op("Range", zero, graph.op("Squeeze", count), one)


def _rows(graph: Graph, table: str, index: str) -> str:
    """Take rows `index` (B, n) of `table` (B, m, t); returns (B, n, t)."""
    index = graph.op("Unsqueeze", index, graph.constant([2]))
    return graph.op("GatherND", table, index, batch_dims=1)
