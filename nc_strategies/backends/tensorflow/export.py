"""Export of a TensorFlow model to ONNX or to a plain SavedModel, for engines that read these."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from nc_strategies.backends.tensorflow import loading
from nc_strategies.backends.tensorflow.fold import simplify
from nc_strategies.backends.tensorflow.graph import Graph, Node, node_of
from nc_strategies.backends.tensorflow.import_tensorflow import reason, tensorflow
from nc_strategies.backends.tensorflow.loading import FrozenModel
from nc_strategies.backends.tensorflow.saving import save
from nc_strategies.backends.tensorflow.session import SessionExecutable
from nc_strategies.errors import InputError
from nc_strategies.models import ModelSource
from nc_strategies.models.info import Batch
from nc_strategies.runtime.process import child_environment, die_with_parent

FORMATS = ("keras", "saved_model", "graph_def", "h5")
OPSET = 17
"""Opset of the exported model."""
OUTPUT_TOLERANCE = 1e-4
"""Greatest difference between the outputs of both models, relative to the largest output (or to 1, if that is more)."""
COMPARED_SAMPLES = 3
"""Batch size of the random input on which outputs are compared."""
COMPARED_FREE_SIZE = 8
"""Size of free dimensions other than the batch in that input."""


def export_onnx(source: ModelSource, folder: Path) -> Path:
    """Export a model to ONNX and compare its outputs with the original's.

    Args:
        source: A model in one of `FORMATS`.
        folder: The folder in which ``<name>.onnx`` is written.

    Returns:
        The path of the file. Its inputs and outputs have the names and free dimensions of the original's signature.

    Raises:
        InputError: the model cannot be loaded or expressed in ONNX, or its outputs differ by more than
            `OUTPUT_TOLERANCE`.
    """
    kind, path = source.pick(FORMATS, "onnxruntime")
    tensorflow()
    try:
        import tf2onnx
    except ImportError as error:
        raise InputError(
            "backend", f"tf2onnx cannot be imported ({error})", "pip install 'nc-strategies[tensorflow]'"
        ) from error
    model = loading.load_source(source, kind, path)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{source.name}.onnx"
    names = {_full(port.tensor): port.spec.name for port in model.inputs}
    graph_def, outputs = _with_outputs(model)
    try:
        proto, _ = tf2onnx.convert.from_graph_def(
            graph_def, input_names=[_full(port.tensor) for port in model.inputs], output_names=outputs, opset=OPSET
        )
    except Exception as error:
        raise InputError(loading.KEY, f"{path.name} cannot be converted to ONNX: {reason(error)}") from error
    _check_operators(proto, path)
    names |= dict(zip(outputs, (port.spec.name for port in model.outputs), strict=True))
    _rename(proto, names)
    _free_batch(proto, model)
    target.write_bytes(proto.SerializeToString())
    _compare(model, target, path)
    return target


def export_saved_model(source: ModelSource, folder: Path) -> tuple[str, list[str]]:
    """Write a TensorFlow model as a SavedModel of one signature, with constants folded and BatchNorm in its weights.

    It imports TensorFlow, so a process that measures calls it in a child.

    Args:
        source: A model in one of `FORMATS`.
        folder: The folder to write.

    Returns:
        The name of the signature, and the names of its outputs in the model's order. Inputs and outputs have the names
        of the model's own.

    Raises:
        InputError: the model cannot be loaded, or the folder holds something else.
    """
    kind, path = source.pick(FORMATS, "tensorflow")
    tensorflow()
    model = loading.load_source(source, kind, path)
    graph, ends = simplify(model.graph, [port.tensor for port in model.inputs], [port.tensor for port in model.outputs])
    tensors = [ends[port.tensor] for port in model.outputs]
    save(graph.to_def(), model.inputs, model.outputs, tensors, [], model.signature, folder)
    return model.signature, [port.spec.name for port in model.outputs]


def export_in_child(source: ModelSource, folder: Path) -> Path:
    """Run `export_onnx` in a child process, because TensorFlow fixes its threads and holds its memory per process.

    Raises:
        InputError: see `export_onnx`; or the converter's process crashed.
    """
    kind, path = source.pick(FORMATS, "onnxruntime")
    options = {"trust": source.trust, "signature": source.signature, "custom_objects": dict(source.custom_objects)}
    command = [
        sys.executable,
        "-m",
        __name__,
        source.name,
        kind,
        str(path),
        str(folder),
        json.dumps(options),
        str(os.getpid()),
    ]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=child_environment()
    )
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise InputError(
            loading.KEY, f"{path.name} cannot be converted to ONNX: the converter ended with status {done.returncode}"
        ) from None
    if "error" in answer:
        raise InputError(*answer["error"])
    return Path(answer["path"])


def main() -> None:
    """Entry point of the child process: reads the task from its arguments and writes the result to standard output."""
    name, kind, path, folder, options, parent = sys.argv[1:]
    die_with_parent(int(parent))
    try:
        source = ModelSource(name, {kind: Path(path)}, **json.loads(options))
        answer: dict[str, Any] = {"path": str(export_onnx(source, Path(folder)))}
    except InputError as error:
        answer = {"error": [error.key, error.problem, error.allowed]}
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


def _with_outputs(model: FrozenModel) -> tuple[Any, list[str]]:
    """The simplified graph with one Identity per output, so that outputs can be renamed independently of other readers.

    BatchNorm is folded here, because the converter writes one after a depthwise convolution as Mul and Add.
    """
    tf = tensorflow()
    graph, ends = simplify(model.graph, [port.tensor for port in model.inputs], [port.tensor for port in model.outputs])
    _replace_erfc(graph)
    _replace_sign_bits(graph)
    graph.prune(node_of(tensor) for tensor in (*ends.values(), *(port.tensor for port in model.inputs)))
    graph_def = graph.to_def()
    names = []
    for index, port in enumerate(model.outputs):
        node = graph_def.node.add(op="Identity", name=f"nc_strategies_output_{index}")
        node.input.append(ends[port.tensor])
        node.attr["T"].type = tf.as_dtype(port.spec.dtype).as_datatype_enum
        names.append(f"{node.name}:0")
    return graph_def, names


def _replace_erfc(graph: Graph) -> None:
    """Write Erfc as 1 - Erf: Keras's GELU has Erfc, and the converter supports Erf only."""
    tf = tensorflow()
    for node in [node for node in graph.nodes.values() if node.op == "Erfc"]:
        erf = graph.add("Erf", graph.free_name(f"{node.name}/erf"), list(node.input), T=tf.float32)
        one = graph.constant(graph.free_name(f"{node.name}/one"), np.array(1, np.float32))
        graph.add("Sub", node.name, [one, erf], T=tf.float32)


def _replace_sign_bits(graph: Graph) -> None:
    """Write tests of a float's sign bit as comparisons, because ONNX has no Bitcast at this opset.

    Keras's ``argmax`` and ``signbit`` test the bit, so that -0 is below 0. It is set where ``x < 0``, and for -0, where
    ``1 / x`` is minus infinity. The sign of NaN is not kept: NaN counts as positive.
    """
    tf = tensorflow()
    for node in [node for node in graph.nodes.values() if node.op == "Less"]:
        number = _tested_for_its_sign_bit(graph, node)
        if number is None:
            continue
        zero = graph.constant(graph.free_name(f"{node.name}/zero"), np.array(0, np.float32))
        one = graph.constant(graph.free_name(f"{node.name}/one"), np.array(1, np.float32))
        inverse = graph.add("RealDiv", graph.free_name(f"{node.name}/inverse"), [one, number], T=tf.float32)
        below = [
            graph.add("Less", graph.free_name(f"{node.name}/{which}"), [value, zero], T=tf.float32)
            for which, value in (("number_below", number), ("inverse_below", inverse))
        ]
        graph.add("LogicalOr", node.name, below)


def _tested_for_its_sign_bit(graph: Graph, node: Node) -> str | None:
    """The float32 tensor whose bits, read as int32 and masked or not, a Less compares with 0; None for any other."""
    tf = tensorflow()
    if not _is_constant(graph, node.input[1], 0):
        return None
    bits = graph.nodes.get(node.input[0])
    if bits is not None and bits.op == "BitwiseAnd":
        rest = [text for text in bits.input if not _is_constant(graph, text, np.iinfo(np.int32).min)]
        bits = graph.nodes.get(rest[0]) if len(rest) == 1 else None
    if bits is None or bits.op != "Bitcast":
        return None
    types = bits.attr["T"].type, bits.attr["type"].type
    return str(bits.input[0]) if types == (tf.float32.as_datatype_enum, tf.int32.as_datatype_enum) else None


def _is_constant(graph: Graph, tensor: str, number: int) -> bool:
    """Whether a tensor is one constant number."""
    value = graph.value(tensor)
    return value is not None and value.size == 1 and bool(np.all(value == number))


def _check_operators(proto: Any, path: Path) -> None:
    """Refuse a model with operators that ONNX does not have: the converter leaves them as they are.

    Raises:
        InputError: there are some.
    """
    import onnx

    unknown = {
        str(node.op_type): str(node.name)
        for node in reversed(proto.graph.node)
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type, OPSET, "")
    }
    if unknown:
        named = ", ".join(f"{kind} ({name})" for kind, name in sorted(unknown.items()))
        raise InputError(
            loading.KEY,
            f"{path.name} cannot be converted to ONNX, which has no operator for {named}",
            "backend=tensorflow, or the model without the layers that need them",
        )


def _rename(proto: Any, names: dict[str, str]) -> None:
    taken = {text for node in proto.graph.node for text in (*node.input, *node.output)} - set(names)
    for name in taken & set(names.values()):
        names[name] = f"{name}/inner"
    for node in proto.graph.node:
        for field in (node.input, node.output):
            for index, text in enumerate(field):
                field[index] = names.get(text, text)
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.initializer):
        value.name = names.get(value.name, value.name)


def _free_batch(proto: Any, model: FrozenModel) -> None:
    specs = {port.spec.name: port.spec for port in (*model.inputs, *model.outputs)}
    for value in (*proto.graph.input, *proto.graph.output):
        for index, (size, dim) in enumerate(
            zip(specs[value.name].shape, value.type.tensor_type.shape.dim, strict=False)
        ):
            if size is None:
                dim.dim_param = "batch" if index == 0 else f"{value.name}_{index}"


def _compare(model: FrozenModel, target: Path, path: Path) -> None:
    import onnxruntime

    batch = _sample(model)
    original = SessionExecutable(
        model.graph.to_def(), model.inputs, [port.tensor for port in model.outputs], 1, "as given"
    )
    expected = original.predict(batch)
    original.close()
    try:
        session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
        exported = session.run([port.spec.name for port in model.outputs], dict(batch))
    except Exception as error:
        raise InputError(
            loading.KEY, f"onnxruntime refuses the ONNX model converted from {path.name}: {reason(error)}"
        ) from error
    for port, right, output in zip(model.outputs, expected, exported, strict=True):
        difference = float(np.max(np.abs(right.astype(np.float64) - output), initial=0))
        allowed = OUTPUT_TOLERANCE * max(1.0, float(np.max(np.abs(right), initial=0)))
        if right.shape != output.shape or not difference <= allowed:
            raise InputError(
                loading.KEY,
                f"{path.name} converted to ONNX differs by {difference:.3g} in output {port.spec.name!r}",
                f"tolerated: {allowed:.3g}",
            )


def _sample(model: FrozenModel) -> Batch:
    rng = np.random.default_rng(0)
    batch = {}
    for port in model.inputs:
        shape = [
            size or (COMPARED_SAMPLES if index == 0 else COMPARED_FREE_SIZE)
            for index, size in enumerate(port.spec.shape)
        ]
        values = rng.uniform(0, 1, shape) if port.spec.dtype.kind == "f" else rng.integers(0, 2, shape)
        batch[port.spec.name] = values.astype(port.spec.dtype)
    return batch


def _full(tensor: str) -> str:
    return tensor if ":" in tensor else f"{tensor}:0"


if __name__ == "__main__":
    main()
