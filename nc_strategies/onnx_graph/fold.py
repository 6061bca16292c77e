"""What is taken out of an ONNX model before anything is quantized; it computes the same."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from nc_strategies.onnx_graph import fold_shapes, fuse, interpreter

RESHAPING = {"Reshape", "Squeeze", "Unsqueeze", "Flatten"}
"""Operators that give the same values in the same order another shape."""


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model after the engine's basic optimizations and those below, with the shapes of its tensors.

    Args:
        model: All its inputs are real ones.
    """
    chosen = interpreter.options()
    chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory(prefix="ncs-fold-") as folder:
        target = Path(folder) / "folded.onnx"
        chosen.optimized_model_filepath = str(target)
        ort.InferenceSession(model.SerializeToString(), chosen, providers=interpreter.PROVIDERS)
        folded = onnx.load(str(target))
    _pads_into_pools(folded)
    plain = not has_branches(folded)
    if plain and fold_shapes.settle(folded):
        del folded.graph.value_info[:]
    folded = onnx.shape_inference.infer_shapes(folded)
    if plain:
        values = [*folded.graph.input, *folded.graph.value_info, *folded.graph.output]
        fuse.join(folded, {v.name: shape_of(v) for v in values if v.type.HasField("tensor_type")})
        folded = onnx.shape_inference.infer_shapes(folded)
    _without_empty_reshapes(folded)
    _sums_into_biases(folded)
    return folded


def _sums_into_biases(model: onnx.ModelProto) -> None:
    """Give the one number that is added to all a ``Conv`` returns to its bias.

    A hard sigmoid behind a convolution starts so. The engine does the same with one number a channel.
    """
    graph = model.graph
    arrays = {i.name: i for i in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    readers = Counter([*_names_read(graph), *(o.name for o in graph.output)])
    for add in [n for n in graph.node if n.op_type == "Add" and n.domain in ("", "ai.onnx")]:
        known = [i for i, name in enumerate(add.input) if name in arrays]
        conv = producers.get(add.input[1 - known[0]]) if len(known) == 1 else None
        if conv is None or conv.op_type != "Conv" or readers[conv.output[0]] > 1:
            continue
        names, constant = [*conv.input, ""], numpy_helper.to_array(arrays[add.input[known[0]]])
        plain = names[1] in arrays and (not names[2] or names[2] in arrays)
        if not plain or constant.size != 1 or constant.ndim > len(arrays[names[1]].dims):
            continue
        bias = numpy_helper.to_array(arrays[names[2]]) if names[2] else np.zeros(arrays[names[1]].dims[0])
        made = numpy_helper.from_array((bias + constant.item()).astype(constant.dtype), f"{add.output[0]}/bias")
        graph.initializer.append(made)
        arrays[made.name] = made
        conv.input[:] = [*names[:2], made.name]
        conv.output[0] = add.output[0]
        producers[add.output[0]] = conv
        graph.node.remove(add)
    _drop_unused(graph)


def _without_empty_reshapes(model: onnx.ModelProto) -> None:
    """Take out every ``Reshape`` and its like that leave a tensor in the shape that it, or one before it, had.

    Exporters write them between convolutions of 1x1 pictures: a ``Transpose`` of one pixel, a mean that drops axes and
    gets them back. The engine keeps them where the batch is free, and with them the changes of layout on both sides.
    """
    graph = model.graph
    arrays = {i.name: i for i in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = {v.name: shape_of(v) for v in values if v.type.HasField("tensor_type")}
    top = Counter(name for node in graph.node for name in node.input)
    everywhere = Counter(_names_read(graph))
    results = {o.name for o in graph.output}
    for node in [n for n in graph.node if _reshapes(n)]:
        target = node.output[0]
        if top[target] != everywhere[target] or target in results:
            continue
        source = _same(node, shapes, arrays, producers)
        if source is None:
            continue
        for reader in graph.node:
            for index, name in enumerate(reader.input):
                if name == target:
                    reader.input[index] = source
        graph.node.remove(node)
    read = Counter([*_names_read(graph), *results])
    for node in reversed([n for n in graph.node if _reshapes(n)]):
        if not read[node.output[0]]:
            read.subtract(node.input)
            graph.node.remove(node)
    _drop_unused(graph)


def _reshapes(node: onnx.NodeProto) -> bool:
    return node.op_type in RESHAPING and node.domain in ("", "ai.onnx")


def _same(
    node: onnx.NodeProto,
    shapes: dict[str, tuple[int | None, ...]],
    arrays: dict[str, onnx.TensorProto],
    producers: dict[str, onnx.NodeProto],
) -> str | None:
    """The tensor of the same shape with which a chain of reshapes begins, or the last one before `node`."""
    source, target = str(node.input[0]), shapes.get(node.output[0])
    found = (
        source
        if node.op_type == "Reshape" and _keeps_shape(node, shapes.get(source), arrays.get(node.input[1]))
        else None
    )
    # As many elements, and at most one dimension that is not known: it is what is left for it.
    while target is not None and target.count(None) < 2:
        if shapes.get(source) == target:
            found = source
        before = producers.get(source)
        if before is None or not _reshapes(before):
            break
        source = before.input[0]
    return found


def _keeps_shape(node: onnx.NodeProto, shape: tuple[int | None, ...] | None, target: onnx.TensorProto | None) -> bool:
    if shape is None or target is None:
        return False
    wanted = [int(d) for d in numpy_helper.to_array(target)]
    copies = not any(a.name == "allowzero" and a.i for a in node.attribute)
    if len(wanted) != len(shape):
        return False
    # One dimension may be open: what is left for it is what it was.
    return all(
        want == -1 or (want == 0 and copies) or (have is not None and want == have)
        for want, have in zip(wanted, shape, strict=True)
    )


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {*_names_read(graph), *(o.name for o in graph.output)}
    for unused in [i for i in graph.initializer if i.name not in used]:
        graph.initializer.remove(unused)


def _pads_into_pools(model: onnx.ModelProto) -> None:
    """Give a zero ``Pad`` that stands before a ``MaxPool`` and reads nothing negative to the pool.

    ``MaxPool`` pads with minus infinity, which comes to the same as zeros where no value is below zero and every window
    holds at least one value. The engine folds a ``Pad`` into a pool only when it can see that in the operator's own
    type, as it can in uint8; in a graph with quantizers the pad would stay float, between two conversions.
    """
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    arrays = {i.name: i for i in graph.initializer}
    readers = Counter([*_names_read(graph), *(o.name for o in graph.output)])
    for pool in [n for n in graph.node if n.op_type == "MaxPool" and n.domain in ("", "ai.onnx")]:
        pad = producers.get(pool.input[0])
        if pad is None or pad.op_type != "Pad" or readers[pad.output[0]] > 1:
            continue
        pads = _pool_pads(pool, pad, arrays)
        if pads is None or not _not_negative(producers.get(pad.input[0]), arrays):
            continue
        kept = [a for a in pool.attribute if a.name not in ("pads", "auto_pad")]
        del pool.attribute[:]
        pool.attribute.extend([*kept, onnx.helper.make_attribute("pads", pads)])
        pool.input[0] = pad.input[0]
        graph.node.remove(pad)
    _drop_unused(graph)


def _names_read(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from _names_read(inner)


def _pool_pads(pool: onnx.NodeProto, pad: onnx.NodeProto, arrays: dict[str, onnx.TensorProto]) -> list[int] | None:
    """The pads of `pool` and `pad` together; None where the pool cannot take those of `pad`."""
    own = {a.name: onnx.helper.get_attribute_value(a) for a in pool.attribute}
    mode = next((onnx.helper.get_attribute_value(a) for a in pad.attribute if a.name == "mode"), b"constant")
    names = [*pad.input[1:], "", ""]
    plain = (
        mode == b"constant"
        and len(pad.input) <= 3
        and names[0] in arrays
        and len(pool.output) == 1
        and own.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        and not own.get("ceil_mode", 0)
        and all(d == 1 for d in own.get("dilations", ()))
    )
    if not plain or (names[1] and (names[1] not in arrays or numpy_helper.to_array(arrays[names[1]]).item() != 0)):
        return None
    kernel = own["kernel_shape"]
    wide = numpy_helper.to_array(arrays[names[0]]).reshape(2, -1)
    if wide.shape[1] != len(kernel) + 2 or wide[:, :2].any() or (wide < 0).any():
        return None
    pads = wide[:, 2:] + np.reshape(own.get("pads", [0] * 2 * len(kernel)), (2, -1))
    return [int(p) for p in pads.ravel()] if (pads < np.asarray(kernel)).all() else None


def _not_negative(node: onnx.NodeProto | None, arrays: dict[str, onnx.TensorProto]) -> bool:
    if node is None or node.op_type in ("Relu", "Sigmoid", "Softmax"):
        return node is not None
    low = node.input[1] if node.op_type == "Clip" and len(node.input) > 1 else ""
    return low in arrays and bool(numpy_helper.to_array(arrays[low]) >= 0)


def has_branches(model: onnx.ModelProto) -> bool:
    """Whether a model has branches or loops, which may read any tensor from within."""
    return any(branches(node) for node in model.graph.node)


def branches(node: onnx.NodeProto) -> bool:
    """Whether there are graphs within a node."""
    return any(a.HasField("g") or a.graphs for a in node.attribute)


def shape_of(info: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """Dimensions of a tensor, None where they are free."""
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in info.type.tensor_type.shape.dim
    )


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model uses; 0 when it does not say."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
