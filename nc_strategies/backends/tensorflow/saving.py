"""Writing a graph as a SavedModel, and opening a SavedModel as its user does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.base import Executable, ExecutedOps
from nc_strategies.backends.tensorflow.executed import count
from nc_strategies.backends.tensorflow.import_tensorflow import reason, tensorflow
from nc_strategies.backends.tensorflow.loading import Port
from nc_strategies.errors import EngineError, InputError
from nc_strategies.models.info import Batch
from nc_strategies.models.keras_objects import ORDER_FILE


def save(
    graph_def: Any,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    tensors: Sequence[str],
    names: Sequence[str],
    signature: str,
    folder: Path,
) -> Path:
    """Write a SavedModel with the original signature.

    Args:
        graph_def: The graph.
        inputs: The signature's inputs, with their tensors in the graph.
        outputs: The signature's outputs.
        tensors: The tensor of the graph per output.
        names: Names of the model's operators.
        signature: The signature's name.
        folder: The folder to write; an earlier SavedModel there is replaced.

    Raises:
        InputError: the folder exists and is neither empty nor a SavedModel.
    """
    from tensorflow.core.protobuf import meta_graph_pb2

    tf = tensorflow()
    v1 = tf.compat.v1
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "saved_model.pb").exists():
            raise InputError(
                "run_dir", f"{folder} holds something that is not a SavedModel", "expected a new or empty folder"
            )
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
        definition = meta_graph_pb2.SignatureDef(
            inputs={port.spec.name: _info(graph, port.tensor) for port in inputs},
            outputs={port.spec.name: _info(graph, tensor) for port, tensor in zip(outputs, tensors, strict=True)},
            method_name=tf.saved_model.PREDICT_METHOD_NAME,
        )
        with v1.Session(graph=graph) as session:
            builder = v1.saved_model.Builder(str(folder))
            builder.add_meta_graph_and_variables(
                session, [v1.saved_model.tag_constants.SERVING], {signature: definition}
            )
            builder.save()
    side = folder / ORDER_FILE
    side.parent.mkdir()
    order = {
        "signature": signature,
        "inputs": [port.spec.name for port in inputs],
        "outputs": [port.spec.name for port in outputs],
        "int8": sorted(names),
    }
    side.write_text(json.dumps(order, indent=1) + "\n", encoding="utf-8")
    return folder


def _info(graph: Any, tensor: str) -> Any:
    from tensorflow.core.protobuf import meta_graph_pb2

    output = graph.get_tensor_by_name(tensor if ":" in tensor else f"{tensor}:0")
    return meta_graph_pb2.TensorInfo(
        name=output.name, dtype=output.dtype.as_datatype_enum, tensor_shape=output.shape.as_proto()
    )


class ServedModel(Executable):
    """A SavedModel loaded with ``tf.saved_model.load`` and called through its signature.

    Args:
        path: The folder of the SavedModel.

    Raises:
        EngineError: TensorFlow cannot load it.
    """

    def __init__(self, path: Path) -> None:
        tf = tensorflow()
        try:
            loaded = tf.saved_model.load(str(path))
            side = path / ORDER_FILE
            known = json.loads(side.read_text(encoding="utf-8")) if side.exists() else {}
            name = known.get("signature") or next(iter(loaded.signatures))
            self._call = loaded.signatures[name]
        except (OSError, ValueError, KeyError, StopIteration, tf.errors.OpError) as error:
            raise EngineError(f"TensorFlow cannot load {path}: {reason(error)}") from error
        self._loaded = loaded
        self._path, self._signature = path, name
        self._outputs = known.get("outputs") or sorted(self._call.structured_outputs)
        self._names = frozenset(known.get("int8", ()))
        self._specs = self._call.structured_input_signature[1]
        self.fingerprint = "saved"
        self.size_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        self._last: dict[str, Any] | None = None

    def predict(self, batch: Batch) -> Sequence[NDArray[Any]]:
        """Call the signature once."""
        tf = tensorflow()
        self._last = {name: tf.constant(np.asarray(batch[name]), spec.dtype) for name, spec in self._specs.items()}
        try:
            result = self._call(**self._last)
        except tf.errors.OpError as error:
            raise EngineError(reason(error)) from error
        return [np.asarray(result[name]) for name in self._outputs]

    def executed(self) -> ExecutedOps:
        """Count the nodes of the partitioned graphs, which the runtime exports at a function's first call only."""
        from tensorflow.python.eager import context

        tf = tensorflow()
        feed = self._last or {
            name: tf.zeros([size or 1 for size in spec.shape], spec.dtype) for name, spec in self._specs.items()
        }
        # A function that was called before exports no graphs, so the model is loaded again.
        called = self._last is not None
        signature = tf.saved_model.load(str(self._path)).signatures[self._signature] if called else self._call
        self._last = feed
        eager = context.context()
        eager.enable_graph_collection()
        try:
            signature(**feed)
            metadata = eager.export_run_metadata()
        except tf.errors.OpError as error:
            raise EngineError(reason(error)) from error
        finally:
            eager.disable_graph_collection()
        graphs = [graph for function in metadata.function_graphs for graph in function.partition_graphs]
        return count((node for graph in graphs for node in graph.node), self._names)
