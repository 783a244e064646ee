"""Writing ONNX graphs: constants, operators, bodies of loops, layers in fp32 or int8."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

OPSET = 21
IR_VERSION = 10
# Operators of ONNX Runtime's own.
_CONTRIBUTED = ("DynamicQuantizeMatMul", "MultiHeadAttention")

FLOAT, BOOL = int(TensorProto.FLOAT), int(TensorProto.BOOL)
INT32, INT64 = int(TensorProto.INT32), int(TensorProto.INT64)

Values = Mapping[str, tuple[int, Sequence[Any] | None]]
"""Name, element type and shape of inputs or outputs; a size that varies has a name."""


def array(tensor: Tensor) -> NDArray[np.float32]:
    """Copy a weight to fp32 numpy."""
    return tensor.detach().float().cpu().numpy()


def quantize_rows(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round `weight` (rows, n) to 8 bits, each row with a scale of its own.

    Returns:
        q (rows, n) from -127 to 127 and scales (rows,), so that weight is about q * scale.
    """
    scale = np.maximum(np.abs(weight).max(axis=1), 1e-12) / np.float32(127)
    return np.round(weight / scale[:, None]).astype(np.int8), scale


class Graph:
    """A graph under construction; values are known by their names.

    Args:
        int8: Whether linear layers multiply 8-bit integers: weights are rounded once, with a scale
            for each output; activations are rounded at run time, with a scale for each tensor.
        outer: The graph around this one, if this is the body of a loop or a branch; it keeps the
            constants of both.
    """

    def __init__(self, int8: bool, outer: "Graph | None" = None) -> None:
        self.int8 = int8
        self.scope = "load"  # the part of the model that operators belong to, for profiles
        self.nodes: list[onnx.NodeProto] = []
        self.root: Graph = outer.root if outer else self
        self._known: dict[Any, str] = {}
        self._constants: list[onnx.TensorProto] = []
        self._count = 0

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator with one output; an input that is left out is an empty name."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add an operator with several outputs."""
        first = self.root._count
        self.root._count += outputs
        names = [f"v{i}" for i in range(first, first + outputs)]
        self.nodes.append(
            helper.make_node(
                kind,
                inputs,
                names,
                name=f"{self.scope}/{kind}/{first}",
                domain="com.microsoft" if kind in _CONTRIBUTED else "",
                **attributes,
            )
        )
        return names

    def constant(self, value: NDArray[Any] | np.number | int | list[Any]) -> str:
        """Name a constant; Python integers become int64, equal constants are kept once."""
        found, root = np.asarray(value), self.root
        key = (found.dtype.str, found.shape, found.tobytes())
        if key not in root._known:
            root._known[key] = f"c{len(root._constants)}"
            root._constants.append(numpy_helper.from_array(found, root._known[key]))
        return root._known[key]

    def default(self, name: str, value: NDArray[Any]) -> None:
        """Give an input of the whole graph a value for the calls that leave it out."""
        self.root._constants.append(numpy_helper.from_array(value, name))

    def folded(self, kind: str, *constants: str, **attributes: Any) -> str:
        """Add an operator over constants, which runs once, when the model is loaded."""
        key, root = (kind, constants, *attributes.items()), self.root
        if repr(key) not in root._known:
            root._known[repr(key)] = root.op(kind, *constants, **attributes)
        return root._known[repr(key)]

    def body(self) -> "Graph":
        """Begin a graph within this one."""
        return Graph(self.int8, self)

    def proto(self, inputs: Values, outputs: Values) -> onnx.GraphProto:
        """Close the graph."""
        declared = [
            [helper.make_tensor_value_info(name, *kind) for name, kind in values.items()]
            for values in (inputs, outputs)
        ]
        return helper.make_graph(
            self.nodes, "vqnmt", declared[0], declared[1], initializer=self._constants
        )

    # --- layers, over (..., d) ---------------------------------------------------------------

    def linear(self, x: str, *layers: nn.Linear) -> str:
        """Apply linear layers side by side, as one product; returns (..., sum of widths)."""
        weight = np.concatenate([array(layer.weight) for layer in layers])  # (out, d)
        return self.product(x, weight, np.concatenate([array(layer.bias) for layer in layers]))

    def product(
        self, x: str, weight: NDArray[np.float32], bias: NDArray[np.float32] | None = None
    ) -> str:
        """Multiply (..., d) by the transpose of `weight` (out, d), and add `bias` (out,).

        If `weight` has more rows than `bias`, only the first rows are used.
        """
        constant = "" if bias is None else self.constant(bias)
        rows = len(weight) if bias is None else len(bias)
        # Cut and transposed when the model is loaded: a table shared with a look-up is kept once.
        rounded, scale = quantize_rows(weight) if self.int8 else (weight, None)
        table = self.constant(rounded)
        if rows < len(weight):
            zero = self.constant([0])
            table = self.folded("Slice", table, zero, self.constant([rows]), zero)
        transposed = self.folded("Transpose", table, perm=[1, 0])
        if scale is not None:
            return self.op(
                "DynamicQuantizeMatMul", x, transposed, self.constant(scale[:rows]), "", constant
            )
        result = self.op("MatMul", x, transposed)
        return self.op("Add", result, constant) if constant else result

    def look_up(self, table: NDArray[np.float32], index: str, factor: float) -> str:
        """Take rows `index` (...) of `table` (V, d) times `factor`; returns (..., d)."""
        if not self.int8:
            rows = self.op("Gather", self.constant(table), index)
            return self.op("Mul", rows, self.constant(np.float32(factor)))
        rounded, scale = quantize_rows(table)
        rows = self.op("Cast", self.op("Gather", self.constant(rounded), index), to=FLOAT)
        scales = self.constant(scale[:, None] * np.float32(factor))
        return self.op("Mul", rows, self.op("Gather", scales, index))

    def norm(self, x: str, norm: nn.LayerNorm) -> str:
        """Apply a layer norm."""
        # ONNX Runtime's fused sum and norm, SkipLayerNormalization, takes several times as long.
        weights = self.constant(array(norm.weight)), self.constant(array(norm.bias))
        return self.op("LayerNormalization", x, *weights, axis=-1, epsilon=norm.eps)

    def size(self, x: str, axis: int) -> str:
        """Return one size of `x`, (1,) int64."""
        return self.op("Shape", x, start=axis, end=axis + 1)

    def head(self, table: str, length: str) -> str:
        """Return the first rows of a table, `length` (1,) of them."""
        zero = self.constant([0])
        return self.op("Slice", table, zero, length, zero)


def model_proto(graph: onnx.GraphProto) -> onnx.ModelProto:
    """Wrap a finished graph as a model."""
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="vqnmt"
    )
