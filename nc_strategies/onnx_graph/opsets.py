"""Models in older or newer versions of ONNX's operators, and whether two models compute the same."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, version_converter

from nc_strategies.errors import first_line
from nc_strategies.onnx_graph import external, interpreter
from nc_strategies.onnx_graph.names import graphs_in

log = logging.getLogger(__name__)
LEAST_IR = 8
"""IR version of a converted model. Before version 4 the converter needs every initializer among the inputs."""
FREE_RESIZE_OPSET = 11
"""First opset whose Resize has a choice of coordinates; before, and in Upsample, they are asymmetric."""
OWN_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Agreement:
    """How two models are compared.

    Args:
        free_size: Size that a free dimension of an input gets; more than 1, so that axes are not confused.
        tolerance: Largest difference, relative to the largest value: far above float32 rounding in a deep model, far
            below what another meaning of an operator causes.
        seed: Seed of the random inputs.
    """

    free_size: int = 2
    tolerance: float = 1e-3
    seed: int = 0


AGREEMENT = Agreement()


def converted(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """A model in another opset, with its bodies, inputs, outputs and custom domains, but without its description.

    Raises:
        RuntimeError: the converter does not know an operator; it also raises other classes.
    """
    source = onnx.ModelProto()
    source.CopyFrom(model)
    source.ir_version = max(source.ir_version, LEAST_IR)
    result = version_converter.convert_version(source, version)
    have = {o.domain for o in result.opset_import}
    result.opset_import.extend(o for o in model.opset_import if o.domain not in {*have, *OWN_DOMAINS})
    if next((o.version for o in model.opset_import if o.domain in OWN_DOMAINS), 0) < FREE_RESIZE_OPSET <= version:
        _keep_coordinates(result)
    # The converter gives a tensor that is both input and output one shape, although only one of them may be free.
    for kept, source_values in ((result.graph.input, model.graph.input), (result.graph.output, model.graph.output)):
        del kept[:]
        kept.extend(source_values)
    return result


def _keep_coordinates(model: onnx.ModelProto) -> None:
    """Give every Resize the asymmetric coordinates of older opsets; the converter leaves the newer default."""
    for graph in graphs_in(model.graph):
        arrays = {i.name: i for i in graph.initializer}
        arrays.update(
            {n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.t.dims}
        )
        for node in graph.node:
            if node.op_type != "Resize" or node.domain not in OWN_DOMAINS:
                continue
            kept = [a for a in node.attribute if a.name not in ("coordinate_transformation_mode", "nearest_mode")]
            scales = arrays.get(node.input[2]) if len(node.input) > 2 else None
            smaller = scales is not None and bool((external.array(scales) < 1).any())
            added = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil" if smaller else "floor"}
            del node.attribute[:]
            node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in added.items())])


def describe_as(model: onnx.ModelProto, source: onnx.ModelProto) -> None:
    """Give a model the description that its consumers read from another one: metadata, version, domain and producer.

    A model without a producer keeps the one that it has.
    """
    if source.producer_name:
        model.producer_name, model.producer_version = source.producer_name, source.producer_version
    model.domain, model.model_version, model.doc_string = source.domain, source.model_version, source.doc_string
    del model.metadata_props[:]
    model.metadata_props.extend(source.metadata_props)
    model.graph.doc_string = source.graph.doc_string
    del model.graph.metadata_props[:]
    model.graph.metadata_props.extend(source.graph.metadata_props)


def agree(first: onnx.ModelProto, second: onnx.ModelProto) -> bool | None:
    """Whether two models return the same for random inputs; None where these inputs cannot be run.

    Args:
        first: All its inputs are real ones.
        second: A model with the same inputs and outputs.
    """
    feed = _random_feed(first)
    try:
        given = _run(first, feed)
    except Exception as error:  # noqa: BLE001 - the engine raises a class of its own for every status code
        log.debug("random inputs do not fit the model: %s", first_line(error))
        return None
    try:
        return all(map(_close, given, _run(second, feed)))
    except Exception as error:  # noqa: BLE001 - as above
        log.info("the converted model does not run: %s", first_line(error))
        return False


def _close(first: Any, second: Any) -> bool:
    if not isinstance(first, np.ndarray) or first.dtype.kind not in "fiub":
        return True
    if first.shape != np.shape(second):
        return False
    finite = np.abs(first[np.isfinite(first)]) if first.dtype.kind == "f" else np.abs(first.astype(np.float64))
    limit = AGREEMENT.tolerance * float(finite.max(initial=0.0))
    return bool(np.allclose(first.astype(np.float64), second, rtol=0, atol=limit, equal_nan=True))


def _random_feed(model: onnx.ModelProto) -> Mapping[str, NDArray[Any]]:
    rng = np.random.default_rng(AGREEMENT.seed)
    feed: dict[str, NDArray[Any]] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else np.dtype(np.float32)
        shape = [d.dim_value or AGREEMENT.free_size for d in kind.shape.dim]
        if dtype.kind == "f":
            feed[value.name] = rng.normal(size=shape).astype(dtype)
        else:  # Small numbers are valid as indices, token numbers and flags.
            feed[value.name] = rng.integers(0, 2, size=shape).astype(dtype)
    return feed


def _run(model: onnx.ModelProto, feed: Mapping[str, NDArray[Any]]) -> list[Any]:
    chosen = interpreter.options_to_look(ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    session = interpreter.open_session(model.SerializeToString(), chosen)
    outputs: list[Any] = session.run(None, dict(feed))
    return outputs
