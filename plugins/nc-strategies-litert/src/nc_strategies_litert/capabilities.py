"""The schemes that the engine executes for a model. Every scheme was seen executing on the model itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from nc_strategies.api import (
    FLOAT,
    Capabilities,
    Config,
    EngineError,
    FloatOp,
    OpCapability,
    OpScheme,
    TensorScheme,
)
from nc_strategies_litert.build import ModelBuilder
from nc_strategies_litert.graph import MOVES, WEIGHT_POSITION, Graph, Op, computing
from nc_strategies_litert.session import LiteRtExecutable

log = logging.getLogger(__name__)
ALGORITHMS = ("minmax", "percentile", "kl")
GRANULARITIES = ("per_channel", "per_tensor")
MODES = ("auto", "static", "all")
"""Values of the setting ``modes``."""
OPT_IN = frozenset({"RSQRT", "SELECT", "SELECT_V2", "SOFTMAX", "SQRT", "SQUARED_DIFFERENCE"})
"""Types that int8 harms: probabilities of many classes are below its step, variances in a normalization differ by
orders of magnitude, and values that mask an attention leave no steps for the others."""
DYNAMIC = "dynamic"
FLOAT_TENSOR = FLOAT.activation
NO_WEIGHT = "its weight is not constant"
NO_KERNEL = "the engine has no int8 kernel"
NOT_SEEN = "the engine was asked for int8 and did not execute it"


@dataclass(frozen=True)
class Look:
    """What an engine executes of a model with int8 operators.

    Args:
        int8: Names of the operators that ran in int8.
        delegated: Names of the operators that the delegate ran.
        refused: Operator type to the reason why a model with it in int8 cannot be built.
    """

    int8: frozenset[str] = frozenset()
    delegated: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)


def describe(
    builder: ModelBuilder, open_model: Callable[[bytes], LiteRtExecutable], right: Collection[str], modes: str
) -> Capabilities:
    """The capabilities of a model.

    Args:
        builder: Builds the model's quantized forms.
        open_model: Loads a model into the engine.
        right: Cases ``TYPE/mode`` in which the engine's kernels were tried and compute rightly; see `probe`.
        modes: One of `MODES`.
    """
    graph = builder.graph
    candidates = [op for op in computing(graph) if op.type not in MOVES and is_floating(graph, op)]
    offered: dict[str, list[OpScheme]] = {op.name: [] for op in candidates}
    refused: dict[str, str] = {}
    for mode, granularity in _ways(modes):
        tried = [op for op in candidates if _may(op, mode, granularity, right)]
        seen = _look(builder, open_model, {op.name: _scheme(op, mode, granularity) for op in tried})
        refused.update(seen.refused)
        for op in tried:
            if op.name not in seen.int8 or (mode == DYNAMIC and op.name not in seen.delegated):
                continue
            for algorithm in ALGORITHMS if mode == "static" else ALGORITHMS[:1]:
                offered[op.name].append(_scheme(op, mode, granularity, algorithm))
    ops = tuple(_capability(graph, op, _ordered(offered[op.name])) for op in candidates if offered[op.name])
    known = {op.name for op in ops}
    static = {op.name for op in ops if any(scheme.is_static for scheme in op.schemes)}
    order = tuple(op.name for op in computing(graph))
    stay = tuple(
        FloatOp(op.name, op.type, _reason(op, op in candidates, refused), _lacks_weight(op))
        for op in computing(graph)
        if op.name not in known and op.type not in MOVES
    )
    edges = tuple((a, b) for a, b in graph_edges(graph) if a in static and b in static)
    return Capabilities(ops, edges, (), (), order, stay)


def is_floating(graph: Graph, op: Op) -> bool:
    """Whether an operator takes and makes floating point."""
    reads = any(graph.tensors[t].dtype == "float32" and not graph.tensors[t].constant for t in op.inputs)
    return reads and all(graph.tensors[t].dtype == "float32" for t in op.outputs)


def graph_edges(graph: Graph) -> Iterator[tuple[str, str]]:
    """Pairs (producer, consumer) of computing operators, seen through operators that only move values."""
    made: dict[int, str] = {}
    for op in graph.ops:
        if op.type in MOVES:
            source = next((made[t] for t in op.inputs if t in made), None)
            if source is not None:
                made.update(dict.fromkeys(op.outputs, source))
            continue
        for producer in dict.fromkeys(made[t] for t in op.inputs if t in made):
            yield producer, op.name
        made.update(dict.fromkeys(op.outputs, op.name))


def _ways(modes: str) -> Iterator[tuple[str, str]]:
    for granularity in GRANULARITIES:
        yield "static", granularity
    if modes != "static":
        yield DYNAMIC, GRANULARITIES[0]
    if modes == "all":
        yield "weight_only", GRANULARITIES[0]


def _may(op: Op, mode: str, granularity: str, right: Collection[str]) -> bool:
    if op.weight is None and (mode != "static" or granularity != GRANULARITIES[0] or op.type in WEIGHT_POSITION):
        return False
    return op.weight is None or f"{op.type}/{mode}" in right


def _scheme(op: Op, mode: str, granularity: str, algorithm: str = "minmax") -> OpScheme:
    weight = None if op.weight is None else TensorScheme("int8", "sym", granularity, "minmax")
    if mode == "static":
        return OpScheme(TensorScheme("int8", "asym", "per_tensor", algorithm), weight)
    if mode == DYNAMIC:
        return OpScheme(TensorScheme("int8", "asym", "per_tensor", DYNAMIC), weight)
    return OpScheme(FLOAT_TENSOR, weight)


def _ordered(schemes: Sequence[OpScheme]) -> list[OpScheme]:
    """Static schemes by algorithm, each with its granularities, then the other modes."""
    static = [scheme for scheme in schemes if scheme.is_static]
    static.sort(key=lambda scheme: ALGORITHMS.index(scheme.activation.algorithm))
    return [*static, *(scheme for scheme in schemes if not scheme.is_static)]


def _look(builder: ModelBuilder, open_model: Callable[[bytes], LiteRtExecutable], schemes: dict[str, OpScheme]) -> Look:
    """Build a model with arbitrary ranges and see what the engine executes; type by type where that fails."""
    if not schemes:
        return Look()
    try:
        return _seen(builder, open_model, schemes)
    except EngineError as error:
        log.info("int8 everywhere cannot be built (%s): each type is tried for itself", error)
    types = {op.name: op.type for op in builder.graph.ops}
    found = Look()
    for kind in dict.fromkeys(types[name] for name in schemes):
        try:
            part = _seen(builder, open_model, {n: s for n, s in schemes.items() if types[n] == kind})
            found = Look(found.int8 | part.int8, found.delegated | part.delegated, found.refused)
        except EngineError as error:
            log.warning("%s is not offered in int8: %s", kind, error)
            found = Look(found.int8, found.delegated, {**found.refused, kind: str(error)})
    return found


def _seen(builder: ModelBuilder, open_model: Callable[[bytes], LiteRtExecutable], schemes: dict[str, OpScheme]) -> Look:
    model = open_model(builder.build(Config(tuple(schemes.items())), lambda *_: (-1.0, 1.0)))
    try:
        return Look(model.executed().int8_names & set(schemes), model.delegated())
    finally:
        model.close()


def _capability(graph: Graph, op: Op, int8: Sequence[OpScheme]) -> OpCapability:
    opt_in = op.type in OPT_IN
    schemes = (FLOAT, *int8) if opt_in else (*int8, FLOAT)
    parameters = 0 if op.weight is None else graph.tensors[op.weight].size
    return OpCapability(op.name, op.type, schemes, opt_in, parameters, graph.tensors[op.outputs[0]].elements)


def _lacks_weight(op: Op) -> bool:
    return op.type in WEIGHT_POSITION and op.weight is None


def _reason(op: Op, tried: bool, refused: Mapping[str, str]) -> str:
    if _lacks_weight(op):
        return NO_WEIGHT
    if op.type in refused:
        return refused[op.type]
    return NOT_SEEN if tried and op.weight is not None else NO_KERNEL
