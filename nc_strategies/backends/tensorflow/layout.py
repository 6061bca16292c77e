"""Rewrites that bring convolutions to the form of TensorFlow's int8 kernels; the function stays the same.

- Channels first (NCHW) becomes channels last (NHWC) between two Transposes.
- A dilated convolution, which TensorFlow writes as a convolution of a rearranged picture (SpaceToBatchND and back),
  becomes a convolution with a dilation.
- A transposed convolution whose kernel is a multiple of its stride becomes a convolution with DepthToSpace behind it
  (https://arxiv.org/abs/1609.05158), or with Reshape for a stride along one axis only: it computes the same products
  and no more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from nc_strategies.backends.tensorflow.graph import Graph, Node
from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow
from nc_strategies.backends.tensorflow.matrix_products import Shape, static_types

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Permutations of the axes from NCHW to NHWC, and back."""
FOUR_AXES = ("strides", "dilations", "ksize")
"""Attributes with one number for each axis."""
WITH_LAYOUT = frozenset(
    {
        "Conv2D",
        "DepthwiseConv2dNative",
        "MaxPool",
        "AvgPool",
        "BiasAdd",
        "FusedBatchNorm",
        "FusedBatchNormV2",
        "FusedBatchNormV3",
    }
)
"""Operators with a ``data_format`` that can be changed by permuting their first input and their output."""


def channels_last(graph: Graph, _: Collection[str]) -> dict[str, str]:
    """Compute with channels last what is computed with channels first.

    Returns:
        Replaced tensors and their replacements.
    """
    first = [n for n in graph.nodes.values() if n.op in WITH_LAYOUT and n.attr["data_format"].s == b"NCHW"]
    transposed = [n for n in graph.nodes.values() if n.op == "Conv2DBackpropInput"]
    first_transposed = [n for n in transposed if n.attr["data_format"].s == b"NCHW"]
    if not first and not first_transposed:
        return {}
    first += _misnamed_biases(graph)
    shapes, _ = static_types(graph) if any(node.op == "BiasAdd" for node in first) else ({}, {})
    replaced: dict[str, str] = {}
    made = set()
    for node in (*first, *first_transposed):
        if node.op == "BiasAdd" and len(shapes.get(node.input[0]) or ()) != len(TO_LAST):
            continue
        place = 2 if node.op == "Conv2DBackpropInput" else 0
        node.input[place] = _last(graph, node, node.input[place])
        if node.op == "Conv2DBackpropInput":
            node.input[0] = _permuted_sizes(graph, node)
        _set_channels_last(node)
        back = _transpose(graph, f"{node.name}/channels_first", node.name, TO_FIRST)
        replaced[node.name] = back
        made.add(back)
    graph.rewire(replaced, [node for node in graph.nodes.values() if node.name not in made])
    return replaced


def _misnamed_biases(graph: Graph) -> list[Node]:
    """Biases of convolutions with channels first that say channels last, as TensorFlow's fused kernel computes them.

    Keras writes these where there are as many channels as columns. The graph optimizer of TensorFlow fuses them with
    the convolution, whose layout is then used for both.
    """
    return [
        node
        for readers in [graph.consumers()]
        for node in graph.nodes.values()
        if node.op == "BiasAdd"
        and node.attr["data_format"].s in (b"", b"NHWC")
        and (source := graph.nodes.get(node.input[0])) is not None
        and source.op in ("Conv2D", "DepthwiseConv2dNative")
        and source.attr["data_format"].s == b"NCHW"
        and len(readers.get(source.name, ())) == 1
    ]


def _last(graph: Graph, node: Node, source: str) -> str:
    """The input of a node with channels last; in front of a padding, so that the padding stays beside its reader."""
    tf = tensorflow()
    pad = graph.nodes.get(source)
    amounts = graph.value(pad.input[1]) if pad is not None and pad.op == "Pad" else None
    if pad is None or amounts is None or len(amounts) != len(TO_LAST):
        return _transpose(graph, f"{node.name}/channels_last", source, TO_LAST)
    moved = _transpose(graph, f"{node.name}/channels_last", pad.input[0], TO_LAST)
    paddings = graph.constant(graph.free_name(f"{node.name}/pad_amounts"), amounts[list(TO_LAST)])
    kind = tf.as_dtype(amounts.dtype)
    return graph.add("Pad", graph.free_name(f"{node.name}/pad"), [moved, paddings], T=tf.float32, Tpaddings=kind)


def _transpose(graph: Graph, name: str, source: str, order: tuple[int, ...]) -> str:
    tf = tensorflow()
    axes = graph.constant(graph.free_name(f"{name}/order"), np.array(order, np.int32))
    return graph.add("Transpose", graph.free_name(name), [source, axes], T=tf.float32, Tperm=tf.int32)


def _permuted_sizes(graph: Graph, node: Node) -> str:
    """The sizes of a transposed convolution's output with channels last."""
    tf = tensorflow()
    sizes = graph.value(node.input[0])
    if sizes is not None:
        return graph.constant(graph.free_name(f"{node.name}/sizes"), sizes[list(TO_LAST)])
    packed = graph.nodes.get(node.input[0])
    if packed is not None and packed.op == "Pack" and len(packed.input) == len(TO_LAST):
        # Unlike Gather, Pack keeps the sizes that are known beside an unknown batch.
        parts = [packed.input[axis] for axis in TO_LAST]
        return graph.add("Pack", graph.free_name(f"{node.name}/sizes"), parts, T=tf.int32, N=len(parts), axis=0)
    order = graph.constant(graph.free_name(f"{node.name}/sizes_order"), np.array(TO_LAST, np.int32))
    axis = graph.constant(graph.free_name(f"{node.name}/sizes_axis"), np.array(0, np.int32))
    return graph.add(
        "GatherV2",
        graph.free_name(f"{node.name}/sizes"),
        [node.input[0], order, axis],
        Tparams=tf.int32,
        Tindices=tf.int32,
        Taxis=tf.int32,
        batch_dims=0,
    )


def _set_channels_last(node: Node) -> None:
    node.attr["data_format"].s = b"NHWC"
    for key in FOUR_AXES:
        values = list(node.attr[key].list.i) if key in node.attr else []
        if len(values) == len(TO_LAST):
            node.attr[key].list.i[:] = [values[axis] for axis in TO_LAST]
    amounts = list(node.attr["explicit_paddings"].list.i) if "explicit_paddings" in node.attr else []
    if amounts:
        pairs = [amounts[2 * axis : 2 * axis + 2] for axis in TO_LAST]
        node.attr["explicit_paddings"].list.i[:] = [amount for pair in pairs for amount in pair]


def dilate(graph: Graph, keep: Collection[str]) -> dict[str, str]:
    """Write dilated convolutions as such.

    Args:
        graph: The graph; it is changed.
        keep: Nodes that must not disappear.

    Returns:
        Replaced tensors and their replacements.
    """
    tf = tensorflow()
    readers = graph.consumers()
    replaced: dict[str, str] = {}
    for node in [n for n in graph.nodes.values() if n.op in ("Conv2D", "DepthwiseConv2dNative")]:
        first, last = _one_axis(graph, node, readers, keep)
        before, after = graph.nodes.get(first.input[0]), readers.get(last.name, [])
        if before is None or before.op != "SpaceToBatchND" or len(after) != 1 or after[0].op != "BatchToSpaceND":
            continue
        if last.name in keep or not _is_plain(node):
            continue
        rates, amounts = graph.value(before.input[1]), graph.value(before.input[2])
        back, crops = graph.value(after[0].input[1]), graph.value(after[0].input[2])
        if rates is None or amounts is None or crops is None or back is None:
            continue
        left = amounts - crops
        channels_first = node.attr["data_format"].s == b"NCHW"
        axes = 1 if first is not node else 3 if channels_first else 2
        if rates.shape != (axes,) or not np.array_equal(rates, back) or (channels_first and rates[0] != 1):
            continue
        if (left < 0).any() or (amounts[:, 0] != left[:, 0]).any():
            continue
        paddings = np.array([[0, 0], *left.tolist(), *([] if channels_first else [[0, 0]])], np.int32)
        source = before.input[0]
        if paddings.any():
            sizes = graph.constant(graph.free_name(f"{node.name}/paddings"), paddings)
            name = graph.free_name(f"{node.name}/pad")
            source = graph.add("Pad", name, [source, sizes], T=tf.float32, Tpaddings=tf.int32)
        first.input[0] = source
        spatial = [1, *rates.tolist()][-2:]
        node.attr["dilations"].list.i[:] = [1, 1, *spatial] if channels_first else [1, *spatial, 1]
        replaced[after[0].name] = last.name
    graph.rewire(replaced)
    return replaced


def _one_axis(
    graph: Graph, node: Node, readers: Mapping[str, Sequence[Node]], keep: Collection[str]
) -> tuple[Node, Node]:
    """The first and last node of a convolution: of a sequence, what adds an axis to it and takes it away."""
    before, after = graph.nodes.get(node.input[0]), readers.get(node.name, [])
    if before is None or before.op != "ExpandDims" or len(after) != 1 or after[0].op != "Squeeze":
        return node, node
    axis, squeezed = graph.value(before.input[1]), list(after[0].attr["squeeze_dims"].list.i)
    # An axis of four, or of the three that it is added to.
    added = axis is not None and axis.size == 1 and int(axis.item()) in (1, -3)
    alone = len(readers.get(before.name, [])) == 1 and not {before.name, node.name} & set(keep)
    return (before, after[0]) if added and squeezed in ([1], [-3]) and alone else (node, node)


def _is_plain(node: Node) -> bool:
    """Whether a convolution has neither strides nor dilations nor a padding of its own."""
    strides, dilations = list(node.attr["strides"].list.i), list(node.attr["dilations"].list.i)
    return (
        node.attr["T"].type == tensorflow().float32.as_datatype_enum
        and node.attr["padding"].s == b"VALID"
        and set(strides) == {1}
        and set(dilations) <= {1}
    )


def convolve_instead(graph: Graph, _: Collection[str]) -> dict[str, str]:
    """Write transposed convolutions as convolutions with DepthToSpace behind them, where that is no more work.

    Returns:
        Replaced tensors and their replacements.
    """
    nodes = [node for node in graph.nodes.values() if node.op == "Conv2DBackpropInput"]
    if not nodes:
        return {}
    shapes, _ = static_types(graph)
    replaced = {}
    given = set(graph.nodes)
    for node in nodes:
        weight, source, result = graph.value(node.input[1]), shapes.get(node.input[2]), shapes.get(node.name)
        if weight is None or weight.dtype != np.float32 or source is None or result is None:
            continue
        begins = _crop(node, weight.shape, source, result)
        if begins is not None and source[1] is not None and source[2] is not None:
            replaced[node.name] = _as_convolution(graph, node, weight, begins, (source[1], source[2]), result)
    # What was added reads the convolution itself.
    graph.rewire(replaced, [node for name, node in graph.nodes.items() if name in given])
    return {name: end for name, end in replaced.items() if name != end}


def _crop(node: Node, kernel: tuple[int, ...], source: Shape, result: Shape) -> tuple[int, int] | None:
    """Rows and columns of the whole transposed convolution in front of its output; None where it stays as it is."""
    strides, dilations = list(node.attr["strides"].list.i), list(node.attr["dilations"].list.i)
    padding = node.attr["padding"].s
    if node.attr["data_format"].s not in (b"", b"NHWC") or set(dilations) - {1} or len(strides) != len(TO_LAST):
        return None
    if strides[1] not in (1, strides[2]) or padding not in (b"SAME", b"VALID"):
        return None
    begins = []
    for axis in (1, 2):
        size, out, stride, length = source[axis], result[axis], strides[axis], kernel[axis - 1]
        if size is None or out is None or length % stride:
            return None
        whole = (size - 1) * stride + length
        begin = (whole - out) // 2 if padding == b"SAME" else 0
        if out > whole or (padding == b"VALID" and out != whole):
            return None
        begins.append(begin)
    return begins[0], begins[1]


def _as_convolution(
    graph: Graph,
    node: Node,
    weight: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    begins: tuple[int, int],
    sizes: tuple[int, int],
    result: Shape,
) -> str:
    tf = tensorflow()
    name, (rows, columns) = node.name, list(node.attr["strides"].list.i)[1:3]
    height, width, out, channels = weight.shape
    taps = (height // rows, width // columns)
    # Output row a * rows + r is the sum of input rows a - j by the kernel's rows j * rows + r.
    parts = weight.reshape(taps[0], rows, taps[1], columns, out, channels)[::-1, :, ::-1]
    kernel = np.ascontiguousarray(parts.transpose(0, 2, 5, 1, 3, 4).reshape(*taps, channels, rows * columns * out))
    source = node.input[2]
    if taps != (1, 1):
        amounts = np.array([[0, 0], [taps[0] - 1] * 2, [taps[1] - 1] * 2, [0, 0]], np.int32)
        paddings = graph.constant(graph.free_name(f"{name}/paddings"), amounts)
        source = graph.add("Pad", graph.free_name(f"{name}/pad"), [source, paddings], T=tf.float32, Tpaddings=tf.int32)
    del graph.nodes[name]
    end = graph.add(
        "Conv2D",
        name,
        [source, graph.constant(graph.free_name(f"{name}/kernel"), kernel)],
        T=tf.float32,
        strides=[1, 1, 1, 1],
        padding="VALID",
        data_format="NHWC",
        dilations=[1, 1, 1, 1],
        use_cudnn_on_gpu=True,
        explicit_paddings=[],
    )
    if rows > 1:
        spread = graph.free_name(f"{name}/depth_to_space")
        end = graph.add("DepthToSpace", spread, [end], T=tf.float32, block_size=rows, data_format="NHWC")
    elif columns > 1:
        # Columns and the channels that hold the columns between them are neighbours in memory.
        size = np.array([-1, sizes[0] + taps[0] - 1, (sizes[1] + taps[1] - 1) * columns, out], np.int32)
        wide = graph.constant(graph.free_name(f"{name}/wide"), size)
        spread = graph.free_name(f"{name}/columns")
        end = graph.add("Reshape", spread, [end, wide], T=tf.float32, Tshape=tf.int32)
    return _cropped(graph, name, end, begins, taps, result)


def _cropped(
    graph: Graph,
    name: str,
    end: str,
    begins: tuple[int, int],
    taps: tuple[int, int],
    result: Shape,
) -> str:
    """The part of a whole transposed convolution that is its output."""
    tf = tensorflow()
    if begins == (0, 0) and taps == (1, 1):
        return end
    begin = graph.constant(graph.free_name(f"{name}/begin"), np.array([0, *begins, 0], np.int32))
    sizes = np.array([-1, result[1], result[2], -1], np.int32)
    size = graph.constant(graph.free_name(f"{name}/size"), sizes)
    return graph.add("Slice", graph.free_name(f"{name}/crop"), [end, begin, size], T=tf.float32, Index=tf.int32)
