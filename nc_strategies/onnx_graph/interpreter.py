"""onnxruntime as the interpreter for constant folding and shape evaluation, whatever engine runs the model later."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nc_strategies.errors import EngineError, first_line
from nc_strategies.models.info import Batch
from nc_strategies.onnx_graph import external

BFLOAT16 = "tensor(bfloat16)"
DISABLE_PREPACKING = "session.disable_prepacking"
"""Configuration entry of a session: "1" leaves weights as they are, so that those in files are mapped only."""
PROVIDERS = ["CPUExecutionProvider"]
EXTERNAL_DATA_FOLDER = "session.model_external_initializers_file_folder_path"
"""Configuration entry of a session: the folder of external data, for a model that is given as bytes."""


def options(threads: int = 1) -> ort.SessionOptions:
    """Session options: the engine's defaults, except for the number of threads and a log of fatal errors only."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    chosen.log_severity_level = 4
    return chosen


def options_to_look(level: ort.GraphOptimizationLevel) -> ort.SessionOptions:
    """Session options for reading a graph or running it once: weights are not copied into the kernels' own layouts.

    Args:
        level: Optimizations of the graph.
    """
    chosen = options()
    chosen.graph_optimization_level = level
    chosen.add_session_config_entry(DISABLE_PREPACKING, "1")
    return chosen


def numpy_type(data_type: int) -> np.dtype[Any]:
    """The type of arrays for an ONNX type.

    numpy has no bfloat16: such data is float32, and `run` converts it where the engine reads it.
    """
    known = TensorProto.FLOAT if data_type == TensorProto.BFLOAT16 else data_type
    dtype: np.dtype[Any] = np.dtype(helper.tensor_dtype_to_np_dtype(known))
    return dtype


def open_session(
    model: bytes | Path, chosen: ort.SessionOptions, providers: Sequence[Any] = PROVIDERS
) -> ort.InferenceSession:
    """Open a session; errors are the engine's own.

    Args:
        model: A serialized model, of which external data lies where `external` says; or the path of a model file.
        chosen: Session options, used for this session only.
        providers: Execution providers, the preferred one first: names, or pairs of a name and its options.
    """
    if isinstance(model, bytes):
        chosen.add_session_config_entry(EXTERNAL_DATA_FOLDER, str(external.ROOT_FOLDER))
        return ort.InferenceSession(model, chosen, providers=list(providers))
    return ort.InferenceSession(str(model), chosen, providers=list(providers))


def start(
    model: bytes | Path, chosen: ort.SessionOptions, providers: Sequence[Any] = PROVIDERS
) -> ort.InferenceSession:
    """Open a session; arguments as for `open_session`.

    Raises:
        EngineError: the engine refuses the model.
    """
    try:
        return open_session(model, chosen, providers)
    except Exception as error:  # onnxruntime has one exception class per status code
        raise EngineError(f"onnxruntime refuses the model: {first_line(error)}") from error


@cache
def space_to_depth_moves_bytes() -> bool:
    """Whether the engine runs ``SpaceToDepth`` on 8-bit values; onnxruntime 1.27 and earlier do not."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("SpaceToDepth", ["x"], ["y"], blocksize=2)],
        "moved",
        [value("x", TensorProto.UINT8, [1, 4, 2, 2])],
        [value("y", TensorProto.UINT8, [1, 16, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    try:
        start(model.SerializeToString(), options())
    except EngineError:
        return False
    return True


def run(session: ort.InferenceSession, batch: Batch, names: Sequence[str] | None = None) -> Sequence[NDArray[Any]]:
    """Run a session once and return all outputs, or the named tensors; half-precision results as float32.

    A sequence of maps from class to probability, as converters of scikit-learn write it, is returned as an array of
    shape (N, classes), in the order of the classes.

    Raises:
        EngineError: the engine could not run the model.
    """
    try:
        if _has_bfloat16(session):
            return _run_bfloat16(session, batch, names)
        outputs: Sequence[Any] = session.run(names, batch)
    except Exception as error:  # as above
        raise EngineError(f"onnxruntime could not run the model: {first_line(error)}") from error
    return [_as_array(output) for output in outputs]


def _as_array(output: Any) -> NDArray[Any]:
    """An output as an array: a list of dictionaries by sorted keys, half precision as float32."""
    if isinstance(output, list) and output and all(isinstance(sample, dict) for sample in output):
        return np.array([[sample[name] for name in sorted(sample)] for sample in output])
    if isinstance(output, list):
        values = np.empty(len(output), object)
        values[:] = output
        return values
    array = np.asarray(output)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _has_bfloat16(session: ort.InferenceSession) -> bool:
    return any(value.type == BFLOAT16 for value in (*session.get_inputs(), *session.get_outputs()))


def _run_bfloat16(session: ort.InferenceSession, batch: Batch, names: Sequence[str] | None) -> Sequence[NDArray[Any]]:
    """Run a session with bfloat16 inputs or outputs, which onnxruntime does not exchange with numpy."""
    types = {value.name: value.type for value in session.get_inputs()}
    feed = {}
    for name, values in batch.items():
        if types.get(name) == BFLOAT16:
            brain = np.ascontiguousarray(values, helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
            feed[name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(brain, TensorProto.BFLOAT16)
        else:
            feed[name] = ort.OrtValue.ortvalue_from_numpy(values)
    results = session.run_with_ort_values(names or [o.name for o in session.get_outputs()], feed)
    return [_as_numpy(value) for value in results]


def _as_numpy(value: ort.OrtValue) -> NDArray[Any]:
    """A result; bfloat16, the upper half of a float32, becomes float32."""
    if value.data_type() != BFLOAT16:
        return np.asarray(value.numpy())
    shape = tuple(value.shape())
    size = int(np.prod(shape, dtype=np.int64))
    upper = np.frombuffer(ctypes.string_at(value.data_ptr(), 2 * size), np.uint16)
    return (upper.astype(np.uint32) << 16).view(np.float32).reshape(shape)
