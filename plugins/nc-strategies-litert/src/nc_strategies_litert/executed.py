"""Executed operators: the types in the flatbuffer, the partition of the delegate, and the kernels that it ran."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nc_strategies.api import ExecutedOps
from nc_strategies_litert.graph import CONVERSIONS, Graph, Op, computing
from nc_strategies_litert.profiler import KernelEvent

DELEGATE = "DELEGATE"
KERNELS: Mapping[str, tuple[str, ...]] = {
    "AVERAGE_POOL_2D": ("average pooling", "global average pooling", "mean"),
    "BATCH_MATMUL": ("batch matrix multiply",),
    "CONCATENATION": ("concatenate", "copy"),
    "CONV_2D": ("convolution", "fully connected"),
    "DEPTHWISE_CONV_2D": ("convolution",),
    "DEQUANTIZE": ("convert",),
    "DIV": ("divide",),
    "FULLY_CONNECTED": ("fully connected",),
    "HARD_SWISH": ("hardswish", "hard swish"),
    "LOGISTIC": ("sigmoid",),
    "MAX_POOL_2D": ("max pooling",),
    "MUL": ("multiply",),
    "PAD": ("constant pad",),
    "PADV2": ("constant pad",),
    "QUANTIZE": ("convert",),
    "RESHAPE": ("static reshape", "copy"),
    "RESIZE_BILINEAR": ("resize bilinear",),
    "RSQRT": ("reciprocal square root",),
    "SQRT": ("square root",),
    "SQUARED_DIFFERENCE": ("squared difference",),
    "SUB": ("subtract",),
    "TRANSPOSE_CONV": ("deconvolution",),
}
"""Operator type to the beginnings of the names of XNNPACK's kernels, where the kernel is not called like the type."""
RUN_TIME_QUANTIZED = frozenset({"QD8", "QDU8", "QP8"})
"""In a kernel's name: activations are quantized at run time.

They become signed, unsigned (seen on AMD with AVX512-VNNI), or packed (Arm).
"""
INTEGER = ("QC8", "QS8", "QU8", "PQS8", "S8", "U8")
"""In a kernel's name: it computes on integers."""
FLOATING = "F32"


def delegated_ops(details: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The operators that each part of the delegate executes.

    Args:
        details: What the interpreter says of its nodes: first those of the graph, then those of the delegate. A
            delegate's node executes what leads from its inputs to its outputs.

    Returns:
        Indices of operators in execution order, by node of the delegate.
    """
    made_by = {
        int(tensor): node["index"] for node in details if node["op_name"] != DELEGATE for tensor in node["outputs"]
    }
    by_index = {node["index"]: node for node in details}
    parts = []
    for node in details:
        if node["op_name"] != DELEGATE:
            continue
        given = {int(tensor) for tensor in node["inputs"]}
        pending, members = [int(tensor) for tensor in node["outputs"]], set()
        while pending:
            tensor = pending.pop()
            maker = made_by.get(tensor)
            if tensor in given or maker is None or maker in members:
                continue
            members.add(maker)
            pending += [int(tensor) for tensor in by_index[maker]["inputs"]]
        parts.append(sorted(members))
    return parts


@dataclass(frozen=True)
class Assigned:
    """A kernel that ran, and the operator of the graph that it computes."""

    event: KernelEvent
    op: Op | None
    main: bool


def assign(graph: Graph, parts: Sequence[Sequence[int]], events: Sequence[KernelEvent]) -> list[Assigned]:
    """Find the operator that each kernel computes.

    XNNPACK keeps the order of the operators. It may add kernels for one (a Clamp behind an addition) and leave out
    others (a DEQUANTIZE of a weight).

    Args:
        graph: The graph that runs.
        parts: See `delegated_ops`.
        events: The events of one run.
    """
    runs: list[list[KernelEvent]] = []
    for event in events:
        goes_on = event.delegated and event.node > 0 and runs and runs[-1][-1].delegated
        if not goes_on:
            runs.append([])
        runs[-1].append(event)
    delegated = [run for run in runs if run[0].delegated]
    members = [[graph.ops[index] for index in part if index < len(graph.ops)] for part in parts]
    if len(delegated) != len(members):
        everything = [op for part in members for op in part]
        members = [sorted(everything, key=lambda op: op.index)] + [[] for _ in delegated[1:]]
        delegated = [[event for run in delegated for event in run], *([] for _ in delegated[1:])]
    found = []
    for run, ops in zip(delegated, members, strict=False):
        found += _align(graph, run, ops)
    for run in runs:
        if not run[0].delegated:
            op = graph.ops[run[0].node] if run[0].node < len(graph.ops) else None
            found.append(Assigned(run[0], op, True))
    return found


def _align(graph: Graph, events: Sequence[KernelEvent], ops: Sequence[Op]) -> list[Assigned]:
    """The longest common subsequence of kernels and operators; further kernels belong to the operator before them."""
    ops = [op for op in ops if not graph.folded(op)]
    best = [[0] * (len(ops) + 1) for _ in range(len(events) + 1)]
    for i in reversed(range(len(events))):
        for j in reversed(range(len(ops))):
            best[i][j] = max(best[i + 1][j], best[i][j + 1])
            if _computes(events[i].name, ops[j].type):
                best[i][j] = max(best[i][j], best[i + 1][j + 1] + 1)
    found: list[Assigned] = []
    waiting: list[KernelEvent] = []
    j = 0
    for i, event in enumerate(events):
        while j < len(ops) and best[i][j] == best[i][j + 1] and best[i][j] > best[i + 1][j]:
            j += 1
        if j < len(ops) and _computes(event.name, ops[j].type) and best[i][j] == best[i + 1][j + 1] + 1:
            found += [Assigned(each, ops[j], False) for each in waiting]
            waiting = []
            found.append(Assigned(event, ops[j], True))
            j += 1
        elif _types(event.name) & RUN_TIME_QUANTIZED:
            waiting.append(event)  # It quantizes the input of the kernel behind it.
        else:
            found.append(Assigned(event, found[-1].op if found else None, False))
    return found + [Assigned(each, None, False) for each in waiting]


def _types(kernel: str) -> frozenset[str]:
    """The parts of a kernel's name in parentheses: a layout and types."""
    return frozenset(kernel.partition("(")[2].partition(")")[0].replace(" ", "").split(","))


def _computes(kernel: str, op_type: str) -> bool:
    name = kernel.partition("(")[0].strip().lower()
    if name == "convert" and _types(kernel) & RUN_TIME_QUANTIZED:
        return False
    starts = KERNELS.get(op_type, (op_type.lower().replace("_2d", "").replace("_", " "),))
    return name.startswith(starts)


def contradicts(kernel: str, mode: str) -> bool:
    """Whether a kernel's name says that it computes in another mode than its operator's tensors do.

    Args:
        kernel: A name such as ``Fully Connected (NC, QD8, F32, QC8W) GEMM``; some names have no types.
        mode: ``static``, ``dynamic``, ``weight_only`` or ``fp32``.
    """
    types = _types(kernel)
    integer = any(each.startswith(INTEGER) for each in types)
    at_run_time = bool(types & RUN_TIME_QUANTIZED)
    if mode == "static":
        return FLOATING in types or at_run_time
    if mode == "dynamic":
        return not at_run_time and (FLOATING in types or integer)
    return integer or at_run_time


def count(graph: Graph, found: Sequence[Assigned]) -> ExecutedOps:
    """Count the operators that ran.

    Args:
        graph: The graph that runs.
        found: The kernels that ran, with their operators; without any, the types of the tensors decide alone.
    """
    kernels = {each.op.index: each.event for each in found if each.op is not None and each.main}
    int8: Counter[str] = Counter()
    fp32: Counter[str] = Counter()
    modes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    names = set()
    for op in computing(graph):
        mode = graph.mode(op)
        event = kernels.get(op.index)
        if mode in (None, "fp32") or (
            event is not None and event.delegated and contradicts(event.name, mode or "fp32")
        ):
            fp32[op.type] += 1
            continue
        int8[op.type] += 1
        names.add(op.name)
        if mode is not None and mode != "static":
            modes[mode][op.type] += 1
    conversions = sum(op.type in CONVERSIONS and not graph.folded(op) for op in graph.ops)
    return ExecutedOps(int8, fp32, frozenset(names), conversions, dict(modes))
