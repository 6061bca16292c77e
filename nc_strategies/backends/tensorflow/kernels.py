"""Nodes of TensorFlow's int8 kernels, with their attributes.

The fused kernels are oneDNN's (``tensorflow/core/kernels/mkl`` in TensorFlow's sources). They have no zero point:
``quint8`` spans ``[0, largest]``, ``qint8`` spans ``[-largest, largest]``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.tensorflow.fused_ops import FusedOp
from nc_strategies.backends.tensorflow.graph import Graph, Node
from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow
from nc_strategies.backends.tensorflow.matrix_products import Shape

FUSED_FLOAT = ("Conv2D", "MatMul")
"""Operators that stock TensorFlow fuses with bias and activation in floating point, with and without oneDNN."""
FUSED_BY_ONEDNN = ("DepthwiseConv2dNative",)
"""Operators that it fuses with oneDNN only. Without oneDNN the fused operator has no kernel, so it is never saved."""
VIEWED = frozenset({"DepthToSpace", "SpaceToDepth", "Transpose"})
"""Operators that move values and have a kernel for plain 8-bit numbers, but none for quantized types."""
VALUES_PER_WORD = 8
"""8-bit values per 64-bit number."""
REMAPPED = frozenset(
    {
        "Conv2D",
        "MatMul",
        "Mul",
        "FusedBatchNormV3",
        "BatchMatMulV2",
        "Erf",
        "Erfc",
        "Tanh",
        "Sigmoid",
        "Softplus",
        "LeakyRelu",
        "Elu",
    }
)
"""Operators that TensorFlow's graph optimizer may fuse in ways that `fused_float` does not write."""


@dataclass(frozen=True)
class Quantized:
    """An int8 tensor.

    Args:
        values: Name of the tensor of integers.
        low: Name of the tensor that holds the lowest real value.
        high: Name of the tensor that holds the highest real value.
        dtype: ``uint8`` or ``int8``.
        largest: The highest real value.
    """

    values: str
    low: str
    high: str
    dtype: str
    largest: float


@dataclass
class Arguments:
    """Arguments of a fused kernel: first the tensors, then their bounds, in the order of the fused operators."""

    data: list[str] = field(default_factory=list)
    types: list[Any] = field(default_factory=list)
    bounds: list[str] = field(default_factory=list)
    fused: list[str] = field(default_factory=list)

    def take(self, tensor: str, dtype: Any, *bounds: str) -> None:
        """Add a tensor and its bounds."""
        self.data.append(tensor)
        self.types.append(dtype)
        self.bounds += bounds

    @property
    def host_types(self) -> list[Any]:
        """The data type of every input."""
        return self.types + [tensorflow().float32] * len(self.bounds)


def quantized_type(dtype: str) -> Any:
    """The DType of an int8 tensor."""
    tf = tensorflow()
    return tf.quint8 if dtype == "uint8" else tf.qint8


def quantize(out: Graph, name: str, source: str, low: str, high: str, dtype: str) -> None:
    """Add a QuantizeV2."""
    out.add(
        "QuantizeV2",
        name,
        [source, low, high],
        T=quantized_type(dtype),
        mode="SCALED",
        round_mode="HALF_TO_EVEN",
        narrow_range=dtype == "int8",
        axis=-1,
        ensure_minimum_range=0.0,
    )


def dequantize(out: Graph, name: str, source: Quantized) -> None:
    """Add a Dequantize."""
    out.add(
        "Dequantize",
        name,
        [source.values, source.low, source.high],
        T=quantized_type(source.dtype),
        mode="SCALED",
        narrow_range=source.dtype == "int8",
        axis=-1,
        dtype=tensorflow().float32,
    )


def convolution(out: Graph, fused_op: FusedOp, node: Node, arguments: Arguments, dtype: str, addend: str) -> None:
    """Add a convolution, plain or depthwise, with an int8 output.

    Args:
        out: The graph to add it to.
        fused_op: The operator.
        node: Its floating-point node.
        arguments: Arguments of the kernel.
        dtype: Type of the output.
        addend: Type of the residual addend; without an addend, the type of the output.
    """
    tf = tensorflow()
    padding, amounts = node.attr["padding"].s.decode(), list(node.attr["explicit_paddings"].list.i)
    if fused_op.paddings:
        padding, amounts = "EXPLICIT", [0, 0, *fused_op.paddings, 0, 0]
    op = "_FusedQuantizedConv2D" if fused_op.op == "Conv2D" else "_FusedQuantizedDepthwiseConv2D"
    out.add(
        op,
        fused_op.name,
        arguments.data + arguments.bounds,
        Tinput=arguments.types[0],
        Tfilter=tf.qint8,
        Tbias=tf.float32,
        Tsummand=quantized_type(addend),
        out_type=quantized_type(dtype),
        Tdevice_inputs=[],
        Thost_inputs=arguments.host_types,
        Tdevice_outputs=[],
        Thost_outputs=[quantized_type(dtype), tf.float32, tf.float32],
        data_format="NHWC",
        strides=list(node.attr["strides"].list.i),
        is_filter_const=True,
        is_bias_const=True,
        padding=padding,
        explicit_paddings=amounts if padding == "EXPLICIT" else [],
        dilations=list(node.attr["dilations"].list.i) or [1, 1, 1, 1],
        fused_ops=arguments.fused,
        alpha=0.0,
    )


def matmul(out: Graph, fused_op: FusedOp, arguments: Arguments, dtype: str | None) -> None:
    """Add a product with a constant matrix. Its output is of type `dtype`; None for floating point."""
    tf = tensorflow()
    result = tf.float32 if dtype is None else quantized_type(dtype)
    out.add(
        "_QuantizedMatMul",
        fused_op.name,
        arguments.data + arguments.bounds,
        Tdevice_inputs=[],
        Thost_inputs=arguments.host_types,
        Tdevice_outputs=[],
        Thost_outputs=[result] if dtype is None else [result, tf.float32, tf.float32],
        T1=arguments.types[0],
        T2=tf.qint8,
        Tbias=tf.float32,
        U=tf.float32,
        Tout=result,
        transpose_a=False,
        transpose_b=False,
        is_weight_const=True,
        is_bias_const=True,
        fused_ops=arguments.fused,
        input_quant_mode="SCALED",
        output_quant_mode="SCALED",
        leakyrelu_alpha=0.2,
    )


def pool(out: Graph, node: Node, source: Quantized) -> bool:
    """Add a MaxPool or AvgPool on an int8 tensor; return whether the kernel supports it."""
    if node.attr["data_format"].s not in (b"", b"NHWC") or node.attr["padding"].s not in (b"SAME", b"VALID"):
        return False
    out.add(
        f"Quantized{node.op}",
        node.name,
        [source.values, source.low, source.high],
        T=quantized_type(source.dtype),
        ksize=list(node.attr["ksize"].list.i),
        strides=list(node.attr["strides"].list.i),
        padding=node.attr["padding"].s.decode(),
    )
    return True


def pad(out: Graph, node: Node, source: Quantized, shape: Shape | None, amounts: NDArray[Any] | None) -> bool:
    """Add a zero padding of an int8 tensor that moves eight channels at a time.

    TensorFlow's Pad kernel copies 8-bit values one by one, several times slower than floats. Eight channels are
    reinterpreted as one 64-bit number, whose zero is eight zeros.

    Args:
        out: The graph to add it to.
        node: The ``Pad``.
        source: The tensor to pad.
        shape: The static shape of `source`; None if unknown.
        amounts: The constant paddings, shape (axes, 2); None if they are computed.

    Returns:
        Whether the padding could be added in this way.
    """
    if shape is None or amounts is None or len(shape) < 2 or None in shape[1:] or amounts[[0, -1]].any():
        return False
    sizes = [int(size or 0) for size in shape]
    if sizes[-1] % VALUES_PER_WORD:
        return False
    padded = [size + int(low + high) for size, (low, high) in zip(sizes[1:-1], amounts[1:-1], strict=True)]
    tf = tensorflow()
    narrow, words = quantized_type(source.dtype), sizes[-1] // VALUES_PER_WORD
    bytes_shape = np.array([-1, *sizes[1:-1], words, VALUES_PER_WORD], np.int32)
    end = np.array([-1, *padded, sizes[-1]], np.int32)
    name = node.name
    out.add(
        "Reshape",
        f"{name}/bytes",
        [source.values, out.constant(f"{name}/bytes_shape", bytes_shape)],
        T=narrow,
        Tshape=tf.int32,
    )
    out.add("Bitcast", f"{name}/words", [f"{name}/bytes"], T=narrow, type=tf.int64)
    out.add(
        "Pad",
        f"{name}/padded",
        [f"{name}/words", node.input[1]],
        T=tf.int64,
        Tpaddings=tf.as_dtype(node.attr["Tpaddings"].type),
    )
    out.add("Bitcast", f"{name}/narrow", [f"{name}/padded"], T=tf.int64, type=narrow)
    out.add("Reshape", name, [f"{name}/narrow", out.constant(f"{name}/shape", end)], T=narrow, Tshape=tf.int32)
    return True


def viewed(out: Graph, node: Node, source: Quantized) -> None:
    """Add an operator of `VIEWED` on an int8 tensor, whose bytes it takes for plain numbers."""
    tf = tensorflow()
    narrow, name = quantized_type(source.dtype), node.name
    out.add("Bitcast", f"{name}/bytes", [source.values], T=narrow, type=tf.uint8)
    moved = type(node)()
    moved.CopyFrom(node)
    moved.name, moved.input[0] = f"{name}/moved", f"{name}/bytes"
    moved.attr["T"].type = tf.uint8.as_datatype_enum
    out.nodes[moved.name] = moved
    out.add("Bitcast", name, [moved.name], T=tf.uint8, type=narrow)


def fused_float(out: Graph, fused_op: FusedOp, node: Node, data: list[str]) -> None:
    """Add the fused floating-point operator that TensorFlow's graph optimizer would write, so that it need not run."""
    fused = ["BiasAdd", *([fused_op.activation] if fused_op.activation and not fused_op.addend else [])]
    added = out.nodes[out.add(f"_Fused{fused_op.op}", fused_op.name, data, num_args=1, fused_ops=fused)]
    for key in (
        "T",
        "strides",
        "padding",
        "explicit_paddings",
        "dilations",
        "data_format",
        "transpose_a",
        "transpose_b",
    ):
        if key in node.attr and not (key == "explicit_paddings" and fused_op.op in FUSED_BY_ONEDNN):
            added.attr[key].CopyFrom(node.attr[key])
    if fused_op.op == "Conv2D":
        added.attr["TArgs"].list.type.append(tensorflow().float32.as_datatype_enum)
