"""Which kernels the engine runs rightly on this processor, tried out in a child process.

A kernel, or a library whose C interface has other layouts, may end the process that it runs in. The answers are kept in
the user's cache.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray

from nc_strategies.api import (
    Config,
    EngineError,
    InputError,
    OpScheme,
    TensorScheme,
    keep_in_cache,
    machine_identity,
    read_cache,
    run_child,
    serve,
)

log = logging.getLogger(__name__)
VERSION = 1
"""Version of the probe, a part of the cache's key: count it up when it changes."""
KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
MODES = ("static", "dynamic", "weight_only")
PROFILER = "profiler"
CASES = (PROFILER, *(f"{kind}/{mode}" for kind in KINDS for mode in MODES))
LIKE = {"TRANSPOSE_CONV": "CONV_2D", "BATCH_MATMUL": "FULLY_CONNECTED", "EMBEDDING_LOOKUP": "FULLY_CONNECTED"}
"""Types without a case of their own, and the type whose case stands for them."""
SIZE, CHANNELS, DEPTH = 6, 24, 40
"""Height and width of the probe's picture, output channels, and input channels."""
TOLERANCE = 0.1
"""Largest error relative to the size of the result. int8 leaves about 0.01; a wrong kernel leaves 1 or more."""
ENGINES = ("ai-edge-litert", "ai-edge-quantizer")


@cache
def held() -> frozenset[str]:
    """The cases that run and compute rightly."""
    name = f"litert-kernels-{_key()}.json"
    kept = _read(read_cache(name))
    if kept is None:
        errors = _try(CASES)
        kept = [case for case in CASES if errors.get(case, np.inf) < TOLERANCE]
        keep_in_cache(name, json.dumps(kept))
    cases = set(kept)
    for kind, like in LIKE.items():
        cases |= {f"{kind}/{mode}" for mode in MODES if f"{like}/{mode}" in cases}
    return frozenset(cases)


def _try(cases: Sequence[str]) -> dict[str, float]:
    """Errors of the cases that do not end their process, from one child, or where that ends from one per case."""
    try:
        return dict(run_child(__name__, {"cases": list(cases)}, "backend", f"the probe of {', '.join(cases)}"))
    except InputError as error:
        log.info("%s", error)
    return {} if len(cases) == 1 else {case: value for each in cases for case, value in _try([each]).items()}


def profiler_works() -> bool:
    """Whether the library's profiler can be read."""
    return PROFILER in held()


def _key() -> str:
    versions = [importlib.metadata.version(name) for name in ENGINES]
    return hashlib.sha256(json.dumps([VERSION, versions, machine_identity()]).encode()).hexdigest()[:16]


def _read(text: str | None) -> list[str] | None:
    try:
        found = json.loads(text or "")
    except ValueError:
        return None
    return found if isinstance(found, list) and set(found) <= set(CASES) else None


def operator_model(
    kind: str, seed: int = 0, size: int = SIZE, depth: int = DEPTH, channels: int = CHANNELS, extreme: bool = False
) -> tuple[bytes, NDArray[np.float32]]:
    """A model of one operator with random weights, and an input for it.

    Args:
        kind: One of `KINDS`.
        seed: Seed of the weights and of the input.
        size: Height and width of its picture; for a ``FULLY_CONNECTED``, the square root of its rows.
        depth: Input channels.
        channels: Output channels; a depthwise convolution has as many as input channels.
        extreme: Weights and inputs are all 1, so that every product in int8 is the largest one.
    """
    rng = np.random.default_rng(seed)
    picture = kind != "FULLY_CONNECTED"
    shape: tuple[int, ...]
    if kind == "DEPTHWISE_CONV_2D":
        shape, channels = (1, 3, 3, depth), depth
    else:
        shape = (channels, 3, 3, depth) if picture else (channels, depth)
    weight = (np.ones(shape) if extreme else rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    bias = rng.normal(size=channels).astype(np.float32)
    given = (1, size, size, depth) if picture else (size * size, depth)
    made = (*given[:-1], channels)
    model = schema.ModelT()
    model.version, model.description = 3, b"probe"
    model.buffers = [schema.BufferT()]
    main = schema.SubGraphT()
    main.tensors = [_tensor(model, *each) for each in (("x", given), ("probe", made))]
    main.tensors += [_tensor(model, "w", shape, weight), _tensor(model, "b", (channels,), bias)]
    main.inputs, main.outputs = np.array([0], np.int32), np.array([1], np.int32)
    op = schema.OperatorT()
    op.opcodeIndex = 0
    op.inputs, op.outputs = np.array([0, 2, 3], np.int32), np.array([1], np.int32)
    op.builtinOptionsType, op.builtinOptions = _options(kind)
    main.operators = [op]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
    code.version = 1
    model.operatorCodes, model.subgraphs = [code], [main]
    model.signatureDefs = [_signature()]
    x = np.ones(given) if extreme else rng.normal(size=given)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)), x.astype(np.float32)


def _tensor(model: Any, name: str, shape: tuple[int, ...], values: NDArray[np.float32] | None = None) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type = name.encode(), np.array(shape, np.int32), schema.TensorType.FLOAT32
    buffer = schema.BufferT()
    if values is not None:
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1
    return tensor


def _options(kind: str) -> tuple[int, Any]:
    if kind == "FULLY_CONNECTED":
        return schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT()
    if kind == "CONV_2D":
        which, options = schema.BuiltinOptions.Conv2DOptions, schema.Conv2DOptionsT()
    else:
        which, options = schema.BuiltinOptions.DepthwiseConv2DOptions, schema.DepthwiseConv2DOptionsT()
        options.depthMultiplier = 1
    options.padding, options.strideW, options.strideH = schema.Padding.SAME, 1, 1
    options.dilationWFactor = options.dilationHFactor = 1
    return which, options


def _signature() -> Any:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    for index, name in enumerate(("x", "y")):
        item = schema.TensorMapT()
        item.name, item.tensorIndex = name.encode(), index
        setattr(signature, "outputs" if index else "inputs", [item])
    return signature


def operator_error(kind: str, mode: str) -> float:
    """Largest error of small operators in a mode, relative to the size of the result in floating point.

    One has random values, the other the largest products that int8 has: kernels that add them in 16 bits overflow.

    Args:
        kind: One of `KINDS`.
        mode: One of `MODES`.

    Raises:
        EngineError: the engine refuses it.
    """
    return max(_error(kind, mode, extreme) for extreme in (False, True))


def _error(kind: str, mode: str, extreme: bool) -> float:
    from nc_strategies_litert.build import ModelBuilder
    from nc_strategies_litert.interpreter import ResizedInterpreter

    content, x = operator_model(kind, extreme=extreme)
    weight = TensorScheme("int8", "sym", "per_channel", "minmax")
    activation = {
        "static": TensorScheme("int8", "asym", "per_tensor", "minmax"),
        "dynamic": TensorScheme("int8", "asym", "per_tensor", "dynamic"),
        "weight_only": TensorScheme("fp32", "none", "none", "none"),
    }[mode]
    exact = ResizedInterpreter(content, 1)
    exact.run({"x": x})
    (right,) = exact.results()
    # A range around 0 makes the largest value 127, and not -128.
    ranges = {
        name: (-float(abs(values).max()), float(abs(values).max())) for name, values in (("x", x), ("probe", right))
    }
    config = Config((("probe", OpScheme(activation, weight)),))
    other = ResizedInterpreter(ModelBuilder(content).build(config, lambda name, _: ranges[name]), 1)
    other.run({"x": x})
    (result,) = other.results()
    return float(np.linalg.norm(result - right) / np.linalg.norm(right))


def profiler_error() -> float:
    """0 if the profiler tells the one kernel of a small model, of one sample and of two; 1 otherwise.

    Raises:
        EngineError: the library refuses it.
    """
    from nc_strategies_litert.profiler import ProfiledModel

    content, x = operator_model("CONV_2D")
    for samples in (1, 2):
        given = np.concatenate([x] * samples)
        with ProfiledModel(content, 1) as model:
            runs = model.run([given], [(samples, SIZE, SIZE, CHANNELS)], 2)
        for events in runs:
            names = [event.name for event in events if event.delegated]
            if len(names) != 1 or not names[0].startswith("Convolution") or not 0 <= events[0].seconds < 1:
                return 1.0
    return 0.0


def _work(request: dict[str, Any]) -> dict[str, Any]:
    errors = {}
    for case in request["cases"]:
        try:
            errors[case] = profiler_error() if case == PROFILER else operator_error(*case.split("/"))
        except EngineError as error:
            log.warning("%s is not used: %s", case, error)
    return errors


if __name__ == "__main__":
    serve(_work)
