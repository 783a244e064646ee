"""The whole translation of a latent Transformer as one ONNX graph, its loop included.

One call turns source tokens into output pieces: the source is encoded once, one product makes its
keys and values for all layers, the loop over the codes keeps its KV cache, and one pass decodes all
positions of all candidates. Shapes: B sentences, R rows (one for each sentence, or for each
candidate or hypothesis, those of a sentence next to each other), S source positions, L codes,
T = L * 2^n_c decoder positions, P output positions, d model width.

The graph is written operator by operator. What that buys: three parts by `torch.onnx.export`, with
a pass of 35 lines that makes `DynamicQuantizeMatMul` of each product, give the same codes but take
12 to 32% longer at batch 1. `tests/exporting` holds the graph to the model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import nn

from vqnmt.decode.settings import ReadingSettings
from vqnmt.errors import VqnmtError
from vqnmt.exporting.graph import FLOAT, INT32, INT64, Graph, array, model_proto
from vqnmt.exporting.search import BEAM_DEFAULTS, Stepper, beam_search, greedy_search
from vqnmt.layers.convolution import ResidualBlock
from vqnmt.layers.transformer import Attention, DecoderLayer, EncoderLayer, FeedForward
from vqnmt.models import LatentTransformer
from vqnmt.tokens import PAD, length_limit

# The likeliest pieces are searched in blocks of this size, see `_likely_pieces`.
_BLOCK = 64
# The graph holds tables of all codes.
_MOST_CODES = 1 << 16
# Numbers in a table of decompressed codes, 8 MB.
_MOST_DECOMPRESSED = 1 << 21

KeyValue = tuple[str, str]


def latent_graph(model: LatentTransformer, max_source_tokens: int, int8: bool) -> onnx.ModelProto:
    """Write translation by `model` as one graph.

    Inputs: `source` (B, S) int64, each row ended by EOS and padded by `PAD`; `limits` (B,) int64,
    the most codes of each sentence, 1 or more; `likely` (1,) int64, how many pieces of a position
    are wanted, n, by default as `ReadingSettings` says. For a beam search over the codes also
    `beam` (1,) int64, `candidates` (1,) int64, from 1 to `beam`, and `length_penalty` () fp32; a
    call that leaves them out is greedy and has one candidate. For a translation from given codes,
    of one sentence, `given` (G,) int64: the predictor's first symbols, see `LatentTransformer`;
    they are taken as they are, and the search goes on greedily.

    Outputs, R = B * `candidates`, those of a sentence side by side, the best first: `pieces`
    (R, P, n) int64, the likeliest pieces of each output position; `codes`
    (R, L) int64 and `lengths` (R,) int64, how many of them are real; `score` (R,) fp32, the
    log-probability in nats of the codes, their end included where it was reached; minus infinity
    for candidates that do not exist; `logits` (R, P, n) fp32, those of `pieces`, falling;
    `code_log_p` (steps, V) fp32, with `given`: the log-probabilities of all symbols at each step,
    else without steps.

    Args:
        model: In evaluation mode.
        max_source_tokens: The longest source.
        int8: See `Graph`.

    Raises:
        VqnmtError: The codebook is too large for a table of all codes.
    """
    if model.end_of_codes > _MOST_CODES:
        raise VqnmtError(
            f"the codebook has {model.end_of_codes} codes; the exported graph has a table of all "
            f"of them and takes {_MOST_CODES} at most: translate with PyTorch"
        )
    graph = Graph(int8)
    inputs: dict[str, tuple[int, Sequence[Any]]] = {
        "source": (INT64, ["B", "S"]),
        "limits": (INT64, ["B"]),
        "likely": (INT64, [1]),
        "beam": (INT64, [1]),
        "candidates": (INT64, [1]),
        "length_penalty": (FLOAT, []),
        "given": (INT64, ["G"]),
    }
    outputs: dict[str, tuple[int, Sequence[Any]]] = {
        "pieces": (INT64, ["R", "P", "n"]),
        "codes": (INT64, ["R", "L"]),
        "lengths": (INT64, ["R"]),
        "score": (FLOAT, ["R"]),
        "logits": (FLOAT, ["R", "P", "n"]),
        "code_log_p": (FLOAT, ["steps", model.code_output.out_features]),
    }
    graph.default("likely", np.array([ReadingSettings().pieces]))
    for name, value in (BEAM_DEFAULTS | {"given": np.zeros(0, dtype=np.int64)}).items():
        graph.default(name, value)

    with torch.inference_mode():
        # A sentence alone has no padding: its branch has no masks, and takes less time.
        alone, together, beam, given = (
            _Writer(model, max_source_tokens, graph.body(), **kind).write()
            for kind in ({"alone": True}, {}, {"beam": True}, {"alone": True, "given": "given"})
        )
    one = graph.constant([1])
    greedy = graph.op("Equal", "beam", one)
    free = graph.op("Equal", graph.size("given", 0), graph.constant([0]))
    single = graph.op("And", greedy, graph.op("Equal", graph.size("source", 0), one))
    several = _either(graph, outputs, greedy, together, beam)
    others = _either(graph, outputs, free, several, given)
    branches = {"then_branch": alone, "else_branch": others}
    simple = graph.op("And", single, free)
    graph.nodes.append(onnx.helper.make_node("If", [simple], list(outputs), **branches))
    return model_proto(graph.proto(inputs, outputs))


@dataclass(slots=True)
class _Source:
    """The encoded source: memory (B, S, d), its mask (B, S) int32 or None, its length (1,).

    `copied` is what the decoder's positions add to themselves, (B, S, d), if the model does so.
    """

    memory: str
    mask: str
    length: str
    copied: str = ""


class _Writer:
    """Writes the graph part by part, in the order of the translation.

    Args:
        model: What to write.
        max_source_tokens: The longest source.
        graph: Where to.
        alone: Whether B and R are 1, so that nothing is padded.
        beam: Whether codes are found by beam search; else greedily, and R is B.
        given: The graph's input with the first codes, if they are given; with `alone`.
    """

    def __init__(
        self,
        model: LatentTransformer,
        max_source_tokens: int,
        graph: Graph,
        *,
        alone: bool = False,
        beam: bool = False,
        given: str = "",
    ) -> None:
        self.model, self.graph, self.alone, self.beam = model, graph, alone, beam
        self.given = given
        size = model.config.transformer
        self.dim, self.heads = size.dim, size.heads
        self.stride = 2**model.config.compression
        most_positions = length_limit(max_source_tokens) // self.stride * self.stride + self.stride
        # One position for the step after the last code, another for the end of the source.
        self.most = max(most_positions, max_source_tokens) + 1
        self.steps = graph.constant(np.arange(self.most))
        self.positions = self._position_table()
        codes = torch.arange(model.end_of_codes, device=model.begin.device)
        self.vectors = model.quantizer.codes_to_vectors(codes)  # (K, d)
        if beam:
            batch, flat = graph.size("source", 0), graph.constant([-1])
            self.by_sentence = graph.op("Concat", batch, flat, graph.constant([self.dim]), axis=0)
            self.points = graph.op("Concat", batch, flat, graph.constant([1]), axis=0)

    def write(self) -> onnx.GraphProto:
        """Write everything."""
        graph, model = self.graph, self.model
        graph.scope = "encoder"
        source = self._encode()
        layers = [_decoder_layer(x) for x in (*model.predictor.layers, *model.decoder.layers)]
        readers = [x.source_attention.key_value for x in layers]
        count = 2 * len(layers)
        if model.source_copy is not None:
            readers, count = [*readers, model.source_copy], count + 1
        parts = graph.ops(
            *("Split", count, graph.linear(source.memory, *readers)), axis=2, num_outputs=count
        )
        key_values = list(zip(parts[:-1:2], parts[1::2], strict=True))
        source.copied = parts[-1]
        split = len(model.predictor.layers)
        graph.scope = "codes"
        codes, lengths, score, log_p = self._predict(source, key_values[:split])
        pieces, logits = self._decode(codes, lengths, source, key_values[split:])
        kinds = {pieces: INT64, codes: INT64, lengths: INT64, score: FLOAT, logits: FLOAT}
        kinds[log_p] = FLOAT
        return graph.proto({}, {name: (kind, None) for name, kind in kinds.items()})

    # --- parts that several stages share -----------------------------------------------------

    def _position_table(self) -> str:
        """Sinusoids (most, d): computed when the model is loaded, not kept in the file."""
        graph = self.graph
        rates = np.exp(-math.log(10000.0) * np.arange(0, self.dim, 2) / self.dim)
        places = graph.folded("Cast", self.steps, to=FLOAT)
        places = graph.folded("Unsqueeze", places, graph.constant([1]))
        angles = graph.folded("Mul", places, graph.constant(rates.astype(np.float32)))
        sines, cosines = graph.folded("Sin", angles), graph.folded("Cos", angles)
        return graph.folded("Concat", sines, cosines, axis=1)

    def _real(self, lengths: str, length: str) -> str:
        """Mark the positions below `lengths` (R, 1) of `length` (1,) in all; (R, length) bool."""
        return self.graph.op("Less", self.graph.head(self.steps, length), lengths)

    def _self_attention(
        self, x: str, norm: nn.LayerNorm, layer: Attention, mask: str, causal: bool = False
    ) -> str:
        """Add to `x` (R, T, d) its attention to itself."""
        graph = self.graph
        projected = graph.linear(graph.norm(x, norm), layer.query, layer.key_value)
        inputs = graph.ops("Split", 3, projected, axis=2, num_outputs=3)
        if mask and not causal:  # padding is at the end: causal attention needs no mask
            inputs += ["", mask]
        attended = graph.op(
            "MultiHeadAttention", *inputs, num_heads=self.heads, unidirectional=int(causal)
        )
        return graph.op("Add", x, graph.linear(attended, layer.output))

    def _source_attention(
        self,
        graph: Graph,
        x: str,
        layer: DecoderLayer,
        key_value: KeyValue,
        mask: str,
        query: str = "",
    ) -> str:
        """Add to `x` (R, T, d) its attention to the source, by `query` if it is known."""
        attention = layer.source_attention
        query = query or graph.linear(graph.norm(x, layer.source_norm), attention.query)
        shape = graph.op("Shape", query) if self.beam else ""
        if self.beam:  # all rows of a sentence read its keys and values as one long row would
            query = graph.op("Reshape", query, self.by_sentence)
        inputs = (query, *key_value, "", mask) if mask else (query, *key_value)
        attended = graph.op("MultiHeadAttention", *inputs, num_heads=self.heads)
        if self.beam:
            attended = graph.op("Reshape", attended, shape)
        return graph.op("Add", x, graph.linear(attended, attention.output))

    def _feedforward(self, graph: Graph, x: str, norm: nn.LayerNorm, layer: FeedForward) -> str:
        """Add to `x` (R, T, d) its feed-forward layer."""
        inner = graph.op("Relu", graph.linear(graph.norm(x, norm), layer.inner))
        return graph.op("Add", x, graph.linear(inner, layer.outer))

    # --- source ------------------------------------------------------------------------------

    def _encode(self) -> _Source:
        graph, model = self.graph, self.model
        length, mask = graph.size("source", 1), ""
        if not self.alone:
            padding = graph.op("Equal", "source", graph.constant(PAD))
            mask = graph.op("Cast", graph.op("Not", padding), to=INT32)
        x = graph.look_up(array(self._embedding()), "source", math.sqrt(self.dim))
        x = graph.op("Add", x, graph.head(self.positions, length))
        for layer in model.encoder.layers:
            assert isinstance(layer, EncoderLayer)
            x = self._self_attention(x, layer.attention_norm, layer.attention, mask)
            x = self._feedforward(graph, x, layer.feedforward_norm, layer.feedforward)
        return _Source(graph.norm(x, model.encoder.norm), mask, length)

    # --- codes -------------------------------------------------------------------------------

    def _predict(self, source: _Source, key_values: list[KeyValue]) -> tuple[str, str, str, str]:
        """Predict codes (R, L), how many of them are real (R,), and their log-probability (R,).

        The last of what it returns is the graph's output `code_log_p`.
        """
        stepper: Stepper = Stepper(
            lambda rows: self._first_step(
                rows, stepper.start(self.graph, rows)[2:], source, key_values
            ),
            lambda graph, caches, step: self._step(graph, caches, step, source, key_values),
            caches=2 * len(key_values),
            heads=self.heads,
            head_dim=self.dim // self.heads,
            end=self.model.end_of_codes,
            joint=self.model.config.joint_end,
        )
        if self.beam:
            codes, lengths, score = beam_search(self.graph, stepper)
            log_p = ""
        else:
            codes, lengths, score, log_p = greedy_search(
                self.graph, stepper, self.steps, self.alone, self.given
            )
        if self.given:
            log_p = self.graph.op("Reshape", log_p, self.graph.constant([-1, stepper.symbols]))
        else:
            empty = np.zeros((0, stepper.symbols), dtype=np.float32)
            log_p = self.graph.op("Identity", self.graph.constant(empty))
        return codes, lengths, score, log_p

    def _first_step(
        self, rows: str, caches: list[str], source: _Source, key_values: list[KeyValue]
    ) -> tuple[str, list[str]]:
        """Write the first step of the predictor, see `Stepper.first`.

        The first layer knows nothing of the sentence before it attends to the source: it attends to
        itself alone, and all of that is constant. `caches` are those of the other layers, empty.
        """
        graph, model = self.graph, self.model
        graph.scope = "predictor"
        layer = _decoder_layer(model.predictor.layers[0])
        attention = layer.self_attention
        begin = model.begin + model.predictor.positions.rows(0, 1)  # (1, d)
        kept = attention.key_value(layer.self_norm(begin)).chunk(2, dim=1)  # key and value, (1, d)
        begin = begin + attention.output(kept[1])
        query = layer.source_attention.query(layer.source_norm(begin))
        shape = 1, self.heads, 1, self.dim // self.heads
        known = [begin[None], query[None], *(one.view(shape) for one in kept)]
        names = [graph.constant(array(one)) for one in known]
        if not self.alone:
            ones = graph.constant([1, 1])
            sizes = graph.op("Concat", rows, ones, axis=0)
            wider = graph.op("Concat", sizes, graph.constant([1]), axis=0)
            names = [
                graph.op("Expand", name, size)
                for name, size in zip(names, (sizes, sizes, wider, wider), strict=True)
            ]
        x, query_name, *cache = names
        return self._layers(graph, x, [*cache, *caches], source, key_values, query_name)

    def _step(
        self,
        graph: Graph,
        caches: list[str],
        step: str,
        source: _Source,
        key_values: list[KeyValue],
    ) -> tuple[str, list[str]]:
        """Write one step of the predictor, see `Stepper.write`."""
        model = self.model
        graph.scope = "predictor"
        inputs = torch.cat([model.code_embedding(self.vectors), model.begin[None]])
        x = graph.op("Gather", graph.constant(array(inputs)), "last")  # (R, 1, d)
        x = graph.op("Add", x, graph.op("Gather", self.positions, step))
        return self._layers(graph, x, caches, source, key_values)

    def _layers(
        self,
        graph: Graph,
        x: str,
        caches: list[str],
        source: _Source,
        key_values: list[KeyValue],
        query: str = "",
    ) -> tuple[str, list[str]]:
        """Write the predictor's layers over `x` (R, 1, d) and its scores.

        With `query`, that of the first layer to the source, `x` and the caches are already what
        that layer's self-attention makes of them.
        """
        model, grown = self.model, []
        for i, key_value in enumerate(key_values):
            layer = _decoder_layer(model.predictor.layers[i])
            cache = caches[2 * i : 2 * i + 2]
            if not query:
                attention = layer.self_attention
                normed = graph.norm(x, layer.self_norm)
                projected = graph.linear(normed, attention.query, attention.key_value)
                attended, *cache = graph.ops(
                    "MultiHeadAttention",
                    3,
                    *graph.ops("Split", 3, projected, axis=2, num_outputs=3),
                    *("", "", "", *cache),
                    num_heads=self.heads,
                )
                x = graph.op("Add", x, graph.linear(attended, attention.output))
            grown += cache
            x = self._source_attention(graph, x, layer, key_value, source.mask, query)
            query = ""
            x = self._feedforward(graph, x, layer.feedforward_norm, layer.feedforward)
        logits = graph.linear(graph.norm(x, model.predictor.norm), model.code_output)
        return logits, grown

    # --- tokens ------------------------------------------------------------------------------

    def _decode(
        self, codes: str, lengths: str, source: _Source, key_values: list[KeyValue]
    ) -> tuple[str, str]:
        """Decode codes (R, L) to the likeliest pieces of each output position, and their logits."""
        graph, model = self.graph, self.model
        # Positions after a sentence's last code are masked, so any vector will do there. A sentence
        # without codes is decoded from code 0.
        graph.scope = "decompressor"
        rows = torch.cat([self.vectors, self.vectors[:1]])  # (K + 1, d)
        decompressor = model.decompressor
        stages: list[Any] = list(zip(decompressor.blocks, decompressor.doublings, strict=True))
        if self._is_table(stages):
            real = torch.ones(len(rows), 1, dtype=torch.bool, device=rows.device)
            rows = decompressor(rows[:, None], real)[0].flatten(1)  # (K + 1, 2^n_c * d)
            stages = []
        x = graph.op("Gather", graph.constant(array(rows)), codes)  # (R, L, d) or (R, L, 2^n_c * d)
        length = graph.size(codes, 1)
        if not self.alone:
            one = graph.constant([1])
            lengths = graph.op("Unsqueeze", graph.op("Max", lengths, one), one)  # (R, 1)
        for block, doubling in stages:
            assert isinstance(block, ResidualBlock)
            keep = ""
            if not self.alone:
                keep = graph.op("Cast", self._real(lengths, length), to=FLOAT)
                keep = graph.op("Unsqueeze", keep, graph.constant([2]))  # (R, T, 1)
            x = graph.linear(self._residual(x, block, length, keep), doubling.linear)
            x = graph.op("Reshape", x, graph.constant([0, -1, self.dim]))
            length = graph.op("Mul", length, graph.constant(2))
            if not self.alone:
                lengths = graph.op("Mul", lengths, graph.constant(2))
        if not stages and self.stride > 1:
            stride = graph.constant(self.stride)
            x = graph.op("Reshape", x, graph.constant([0, -1, self.dim]))
            length = graph.op("Mul", length, stride)
            if not self.alone:
                lengths = graph.op("Mul", lengths, stride)
        if model.source_copy is not None:
            x = graph.op("Add", x, self._uniform_copy(lengths, length, source))
        graph.scope = "decoder"
        x = graph.op("Add", x, graph.head(self.positions, length))
        mask = "" if self.alone else graph.op("Cast", self._real(lengths, length), to=INT32)
        causal = model.config.causal_decoder
        for i, key_value in enumerate(key_values):
            layer = _decoder_layer(model.decoder.layers[i])
            x = self._self_attention(x, layer.self_norm, layer.self_attention, mask, causal)
            x = self._source_attention(graph, x, layer, key_value, source.mask)
            x = self._feedforward(graph, x, layer.feedforward_norm, layer.feedforward)
        x = graph.norm(x, model.decoder.norm)
        if model.upsample is not None:
            x = graph.linear(x, model.upsample.linear)
            x = graph.op("Reshape", x, graph.constant([0, -1, self.dim]))
        return self._likely_pieces(x)

    def _is_table(self, stages: list[Any]) -> bool:
        """Say whether each code's positions depend on no other code, and fit into a small table."""
        convolutions = any(len(block.convolutions) for block, _ in stages)
        return not convolutions and len(self.vectors) * self.stride * self.dim <= _MOST_DECOMPRESSED

    def _residual(self, x: str, block: ResidualBlock, length: str, keep: str) -> str:
        """Apply a residual block of convolutions to `x` (R, T, d); `keep` is (R, T, 1)."""
        graph = self.graph
        windows = graph.constant(np.arange(self.most)[:, None] + np.arange(3))
        windows = graph.head(windows, length)  # (T, 3)
        hidden = graph.norm(x, block.norms[0])  # type: ignore[arg-type]
        layers: Any = zip(block.convolutions, block.norms[1:], strict=True)
        for convolution, norm in layers:
            hidden = graph.op("Relu", hidden)
            if keep:
                hidden = graph.op("Mul", hidden, keep)
            hidden = graph.op("Pad", hidden, graph.constant([0, 1, 0, 0, 1, 0]))
            hidden = graph.op("Gather", hidden, windows, axis=1)  # (R, T, 3, d)
            hidden = graph.op("Reshape", hidden, graph.constant([0, -1, 3 * self.dim]))
            hidden = graph.norm(graph.linear(hidden, convolution.linear), norm)
        return graph.op("Add", x, hidden)

    def _uniform_copy(self, lengths: str, length: str, source: _Source) -> str:
        """Read for position i of n what the source copies at i * S // n, (R, T, d)."""
        graph = self.graph
        steps = graph.head(self.steps, length)  # (T,)
        if self.alone:
            index = graph.op("Div", graph.op("Mul", steps, source.length), length)
            return graph.op("Gather", source.copied, index, axis=1)
        one, two = graph.constant([1]), graph.constant([2])
        real = graph.op("Cast", source.mask, to=INT64)
        sources = graph.op("ReduceSum", real, one)  # (B, 1)
        if self.beam:
            sources = graph.op("Unsqueeze", sources, two)
            lengths = graph.op("Reshape", lengths, self.points)  # (B, R / B, 1)
        index = graph.op("Div", graph.op("Mul", steps, sources), lengths)  # (B, T) or (B, R / B, T)
        index = graph.op("Min", index, graph.op("Sub", sources, one))
        if self.beam:
            index = graph.op("Reshape", index, self.points)  # (B, R / B * T, 1)
            copied = graph.op("GatherND", source.copied, index, batch_dims=1)
            shape = graph.op(
                "Concat", graph.constant([-1]), length, graph.constant([self.dim]), axis=0
            )
            return graph.op("Reshape", copied, shape)
        index = graph.op("Unsqueeze", index, two)
        return graph.op("GatherND", source.copied, index, batch_dims=1)

    def _embedding(self) -> torch.Tensor:
        """The embedding padded with rows of zeros, so that `_BLOCK` divides its length."""
        table = self.model.embedding.weight
        return F.pad(table, (0, 0, 0, -len(table) % _BLOCK))

    def _likely_pieces(self, x: str) -> tuple[str, str]:
        """Find the likeliest pieces for each of `x` (R, P, d), and their logits, both (R, P, n).

        The n likeliest are in the n blocks with the highest maxima. Vector units compute the maxima
        of blocks, but not a TopK over all pieces.
        """
        graph, table = self.graph, array(self._embedding())
        graph.scope = "pieces"
        size = self.model.embedding.written
        bias = np.full(size + -size % _BLOCK, -1e30, dtype=np.float32)  # no piece
        bias[:size] = 0
        scores = graph.product(x, table, bias)
        scores = graph.op("Reshape", scores, graph.constant([0, 0, -1, _BLOCK]))
        highest = graph.op("ReduceMax", scores, graph.constant([3]), keepdims=0)
        blocks = graph.op("Min", "likely", graph.constant([len(bias) // _BLOCK]))
        _, block = graph.ops("TopK", 2, highest, blocks, axis=2)  # (R, P, n)
        index = graph.op("Unsqueeze", block, graph.constant([3]))
        scores = graph.op("GatherND", scores, index, batch_dims=2)  # (R, P, n, _BLOCK)
        scores = graph.op("Reshape", scores, graph.constant([0, 0, -1]))
        likeliest = graph.op("Min", "likely", graph.constant([size]))
        logits, found = graph.ops("TopK", 2, scores, likeliest, axis=2)
        width = graph.constant(_BLOCK)
        block = graph.op("GatherElements", block, graph.op("Div", found, width), axis=2)
        within = graph.op("Mod", found, width)
        return graph.op("Add", graph.op("Mul", block, width), within), logits


def _either(
    graph: Graph,
    outputs: Mapping[str, tuple[int, Sequence[Any]]],
    condition: str,
    yes: onnx.GraphProto,
    no: onnx.GraphProto,
) -> onnx.GraphProto:
    """Write a graph within `graph` that runs one of two."""
    body = graph.body()
    found = body.ops("If", len(outputs), condition, then_branch=yes, else_branch=no)
    return body.proto({}, dict(zip(found, outputs.values(), strict=True)))


def _decoder_layer(module: nn.Module) -> DecoderLayer:
    assert isinstance(module, DecoderLayer)
    return module
