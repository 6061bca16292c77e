"""What is taken out of an ONNX model before anything is quantized; it computes the same."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

from nc_strategies.onnx_graph import external, fold_shapes, fuse, interpreter
from nc_strategies.onnx_graph.engine_types import inferred
from nc_strategies.onnx_graph.names import FreshNames, bodies, reads
from nc_strategies.onnx_graph.products import plain_products

RESHAPING = {"Reshape", "Squeeze", "Unsqueeze", "Flatten"}
"""Operators that give the same values in the same order another shape."""


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model after the engine's basic optimizations and those below, with the shapes of its tensors.

    Args:
        model: All its inputs are real ones. Sizes that it computes may become constants in place.
    """
    fold_shapes.settle_sizes(model)
    chosen = interpreter.options_to_look(ort.GraphOptimizationLevel.ORT_ENABLE_BASIC)
    with tempfile.TemporaryDirectory(prefix="ncs-fold-") as folder:
        target = Path(folder) / "folded.onnx"
        chosen.optimized_model_filepath = str(target)
        interpreter.open_session(model.SerializeToString(), chosen)
        folded = onnx.load(str(target), load_external_data=False)
    _pads_into_pools(folded)
    if fold_shapes.settle(folded):
        del folded.graph.value_info[:]
    folded = inferred(folded)
    fuse.join(folded, _shapes(folded.graph))
    folded = inferred(folded)
    _without_empty_reshapes(folded)
    _sums_into_biases(folded)
    plain_products(folded, _shapes(folded.graph))
    _drop_unused(folded.graph)
    return inferred(folded)


def _sums_into_biases(model: onnx.ModelProto) -> None:
    """Give the one number that is added to all a ``Conv`` returns to its bias.

    A hard sigmoid behind a convolution starts so. The engine does the same with one number a channel.
    """
    graph = model.graph
    fresh = FreshNames(model)
    arrays = {i.name: i for i in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    readers = Counter([*_names_read(graph), *(o.name for o in graph.output)])
    for add in _own(graph, "Add"):
        known = [i for i, name in enumerate(add.input) if name in arrays]
        conv = producers.get(add.input[1 - known[0]]) if len(known) == 1 else None
        if conv is None or conv.op_type != "Conv" or readers[conv.output[0]] > 1:
            continue
        bias = _bias_with(conv, external.array(arrays[add.input[known[0]]]), arrays)
        if bias is None:
            continue
        made = numpy_helper.from_array(bias, fresh(f"{add.output[0]}/bias"))
        graph.initializer.append(made)
        arrays[made.name] = made
        conv.input[:] = [*conv.input[:2], made.name]
        conv.output[0] = add.output[0]
        producers[add.output[0]] = conv
        graph.node.remove(add)
    _drop_unused(graph)


def _bias_with(
    conv: onnx.NodeProto, constant: NDArray[Any], arrays: Mapping[str, onnx.TensorProto]
) -> NDArray[Any] | None:
    """A convolution's bias with a constant added; None where that is not one number, or weight or bias are computed."""
    _, weight, bias = [*conv.input, ""][:3]
    if weight not in arrays or (bias and bias not in arrays):
        return None
    if constant.size != 1 or constant.ndim > len(arrays[weight].dims):
        return None
    own = external.array(arrays[bias]) if bias else np.zeros(arrays[weight].dims[0])
    return np.asarray((own + constant.item()).astype(constant.dtype))


def _own(graph: onnx.GraphProto, *kinds: str) -> list[onnx.NodeProto]:
    """The nodes of some of ONNX's own types."""
    return [n for n in graph.node if n.op_type in kinds and n.domain in ("", "ai.onnx")]


def _without_empty_reshapes(model: onnx.ModelProto) -> None:
    """Take out every ``Reshape`` and its like that leave a tensor in the shape that it, or one before it, had.

    Exporters write them between convolutions of 1x1 pictures: a ``Transpose`` of one pixel, a mean that drops axes and
    gets them back. The engine keeps them where the batch is free, and with them the changes of layout on both sides.
    """
    graph = model.graph
    arrays = {i.name: i for i in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    shapes = _shapes(graph)
    top = Counter(name for node in graph.node for name in node.input)
    everywhere = Counter(_names_read(graph))
    results = {o.name for o in graph.output}
    for node in _own(graph, *RESHAPING):
        target = node.output[0]
        if top[target] != everywhere[target] or target in results:
            continue
        source = _same(node, shapes, arrays, producers)
        if source is not None:
            _read_instead(graph, target, source)
            graph.node.remove(node)
    read = Counter([*_names_read(graph), *results])
    for node in reversed(_own(graph, *RESHAPING)):
        if not read[node.output[0]]:
            read.subtract(node.input)
            graph.node.remove(node)
    _drop_unused(graph)


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int | None, ...]]:
    """Dimensions by tensor, None where they are free; without tensors of unknown rank, such as an If may return."""
    values = [*graph.input, *graph.value_info, *graph.output]
    return {v.name: shape_of(v) for v in values if v.type.tensor_type.HasField("shape")}


def _read_instead(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let all that reads one tensor read another."""
    for reader in graph.node:
        for index, name in enumerate(reader.input):
            if name == old:
                reader.input[index] = new


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
    wanted = [int(d) for d in external.array(target)]
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
    for pool in _own(graph, "MaxPool"):
        pad = producers.get(pool.input[0])
        if pad is None or pad.op_type != "Pad" or readers[pad.output[0]] > 1:
            continue
        pads = _pool_pads(pool, pad, arrays)
        if pads is None or not _not_negative(producers.get(pad.input[0]), arrays):
            continue
        _set_pads(pool, pads)
        pool.input[0] = pad.input[0]
        graph.node.remove(pad)
    _drop_unused(graph)


def _set_pads(pool: onnx.NodeProto, pads: list[int]) -> None:
    kept = [a for a in pool.attribute if a.name not in ("pads", "auto_pad")]
    del pool.attribute[:]
    pool.attribute.extend([*kept, onnx.helper.make_attribute("pads", pads)])


def _names_read(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that a node reads, once for each of its inputs and once for its bodies."""
    for node in graph.node:
        yield from reads(node)


def _pool_pads(pool: onnx.NodeProto, pad: onnx.NodeProto, arrays: dict[str, onnx.TensorProto]) -> list[int] | None:
    """The pads of `pool` and `pad` together; None where the pool cannot take those of `pad`."""
    own = {a.name: onnx.helper.get_attribute_value(a) for a in pool.attribute}
    wide = _zero_pads(pad, arrays)
    if wide is None or len(pool.output) != 1 or not _plain_windows(own):
        return None
    kernel = own["kernel_shape"]
    if wide.shape[1] != len(kernel) + 2 or wide[:, :2].any() or (wide < 0).any():
        return None
    pads = wide[:, 2:] + np.reshape(own.get("pads", [0] * 2 * len(kernel)), (2, -1))
    return [int(p) for p in pads.ravel()] if (pads < np.asarray(kernel)).all() else None


def _plain_windows(pool: Mapping[str, Any]) -> bool:
    """Whether a pool, of which the attributes are given, pads as told, and its windows have no holes."""
    return (
        pool.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        and not pool.get("ceil_mode", 0)
        and all(d == 1 for d in pool.get("dilations", ()))
    )


def _zero_pads(pad: onnx.NodeProto, arrays: Mapping[str, onnx.TensorProto]) -> NDArray[np.int64] | None:
    """Zeros that are added before and behind each axis, shape (2, axes); None where they vary or are not zeros."""
    mode = next((onnx.helper.get_attribute_value(a) for a in pad.attribute if a.name == "mode"), b"constant")
    _, amounts, value = [*pad.input, "", ""][:3]
    if mode != b"constant" or len(pad.input) > 3 or amounts not in arrays:
        return None
    if value and (value not in arrays or external.array(arrays[value]).item() != 0):
        return None
    return np.asarray(external.array(arrays[amounts]).reshape(2, -1))


def _not_negative(node: onnx.NodeProto | None, arrays: dict[str, onnx.TensorProto]) -> bool:
    if node is None or node.op_type in ("Relu", "Sigmoid", "Softmax"):
        return node is not None
    low = node.input[1] if node.op_type == "Clip" and len(node.input) > 1 else ""
    return low in arrays and bool(external.array(arrays[low]) >= 0)


def branches(node: onnx.NodeProto) -> bool:
    """Whether there are graphs within a node."""
    return bool(bodies(node))


def shape_of(info: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """Dimensions of a tensor, None where they are free."""
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in info.type.tensor_type.shape.dim
    )


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model uses; 0 when it does not say."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
