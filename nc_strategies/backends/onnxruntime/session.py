"""Sessions of ONNX Runtime, and what they execute."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from nc_strategies.backends.base import Batch, Executable, ExecutedOps, Profile
from nc_strategies.backends.profiling import NodeTimes, summarise
from nc_strategies.errors import EngineError, first_line

PROVIDERS = ["CPUExecutionProvider"]
CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "ReorderInput", "ReorderOutput"}
MOVEMENT = {
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Shape", "Gather", "Slice",
    "Expand", "Constant", "ConstantOfShape", "Split", "Pad", "Tile", "DepthToSpace", "SpaceToDepth", "Range",
    "Dropout",
}
PLAIN_TYPES = {
    "FusedConv": "Conv", "NhwcFusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul", "QGemm": "Gemm",
    "NhwcMaxPool": "MaxPool", "MatMulInteger": "MatMul", "MatMulIntegerToFloat": "MatMul", "ConvInteger": "Conv",
    "DynamicQuantizeMatMul": "MatMul", "Sum": "Add",
}
INT8_ONLY = {"QGemm", "NhwcMaxPool", "MatMulInteger", "MatMulIntegerToFloat", "ConvInteger", "DynamicQuantizeMatMul"}
BARRIER = "/float_barrier"


def options(threads: int) -> ort.SessionOptions:
    """Session options with everything a user has by default but the number of threads, and a quiet log."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    chosen.log_severity_level = 4
    return chosen


def start(model: bytes | Path, chosen: ort.SessionOptions) -> ort.InferenceSession:
    """A session.

    Raises:
        EngineError: the engine refuses the model.
    """
    try:
        return ort.InferenceSession(model if isinstance(model, bytes) else str(model), chosen, providers=PROVIDERS)
    except Exception as error:  # onnxruntime raises a class of its own for every status code
        raise EngineError(f"onnxruntime refuses the model: {first_line(error)}") from error


def run(session: ort.InferenceSession, batch: Batch, names: Sequence[str] | None = None) -> Sequence[NDArray[Any]]:
    """One run: the outputs, or those that are named.

    Raises:
        EngineError: the engine could not run the model.
    """
    try:
        outputs: Sequence[NDArray[Any]] = session.run(names, batch)
    except Exception as error:  # as above
        raise EngineError(f"onnxruntime could not run the model: {first_line(error)}") from error
    return outputs


def _profiled(model: bytes | Path, threads: int, batch: Batch, runs: int,
              optimized: Path | None = None) -> tuple[ort.InferenceSession, list[dict[str, Any]]]:
    """A session whose first runs were recorded, and the record; it records no more.

    Args:
        model: A serialized model, or the path of one.
        threads: Threads for one run.
        batch: What to run on.
        runs: How often.
        optimized: Where to leave the graph that ran; nowhere when left out.
    """
    with tempfile.TemporaryDirectory(prefix="ncs-profile-") as folder:
        chosen = options(threads)
        chosen.enable_profiling = True
        chosen.profile_file_prefix = str(Path(folder) / "profile")
        if optimized is not None:
            chosen.optimized_model_filepath = str(optimized)
        session = start(model, chosen)
        for _ in range(runs):
            run(session, batch)
        return session, json.loads(Path(session.end_profiling()).read_text())


class OrtExecutable(Executable):
    """A session with the engine's default optimizations.

    Args:
        model: A serialized model, or the path of one.
        threads: Threads for one run.
        fingerprint: Hash of the graph.
        operators: Name of a node or of its output to the operator of the user's model it stands for.
        probe: A batch to run once, to see what executes.
        kernel_times: Gives the seconds of an optimized graph's nodes on a batch, by name; the engine's profiler does
            for those that are missing.

    Raises:
        EngineError: the engine refuses the model.
    """

    def __init__(self, model: bytes | Path, threads: int, fingerprint: str = "",
                 operators: Mapping[str, str] | None = None, probe: Batch | None = None,
                 kernel_times: Callable[[onnx.ModelProto, Batch], Mapping[str, float]] | None = None) -> None:
        self.fingerprint = fingerprint
        self.size_bytes = len(model) if isinstance(model, bytes) else model.stat().st_size
        self._operators = operators or {}
        self._executed: ExecutedOps | None = None
        # The engine's own session keeps the serialized model too: this costs no memory.
        self._model, self._threads, self._kernel_times = model, threads, kernel_times
        # The C library gives each thread memory of its own. In the process's own, where others were opened and closed
        # before, a session's parts would lie scattered and it would run up to 5 % slower: late trials would be worse
        # than early ones.
        self._keeper = ThreadPoolExecutor(1)
        self._session: ort.InferenceSession | None = None
        self._keeper.submit(self._start, probe).result()

    def _start(self, probe: Batch | None) -> None:
        if probe is None:
            self._session = start(self._model, options(self._threads))
            return
        self._session, events = _profiled(self._model, self._threads, probe, 1)
        self._executed = read_profile(events, self._operators)

    @property
    def session(self) -> ort.InferenceSession:
        """The engine's session.

        Raises:
            EngineError: it was closed.
        """
        if self._session is None:
            raise EngineError("the model was closed")
        return self._session

    def predict(self, batch: Batch) -> Sequence[NDArray[Any]]:
        """See `Executable.predict`."""
        return run(self.session, batch)

    def close(self) -> None:
        """See `Executable.close`."""
        def forget() -> None:
            self._session = None

        if self._session is not None:
            self._keeper.submit(forget).result()
            self._keeper.shutdown()

    def profile(self, batch: Batch, runs: int) -> Profile:
        """See `Executable.profile`: a session of its own, because a profile that is on slows every run."""
        alone: Mapping[str, float] = {}
        with tempfile.TemporaryDirectory(prefix="ncs-optimized-") as folder:
            path = Path(folder) / "optimized.onnx"
            _, events = _profiled(self._model, self._threads, batch, 2, path)
            optimized = onnx.load(str(path))
        if self._kernel_times is not None:
            alone = self._kernel_times(optimized, batch)
        if any(event["name"].removesuffix("_kernel_time") not in alone for event in _node_events(events)):
            _, events = _profiled(self._model, self._threads, batch, runs + 1)
        return read_times(events, self._operators, origins(optimized.graph, self._operators), alone)

    def executed(self) -> ExecutedOps:
        """What ran, from the engine's own profile of a run.

        Raises:
            EngineError: the executable was made without a probe batch.
        """
        if self._executed is None:
            raise EngineError("made without a probe batch: what it executes was not recorded")
        return self._executed


def origins(graph: onnx.GraphProto, operators: Mapping[str, str]) -> dict[str, str | None]:
    """For each conversion in an optimized graph, by name, the operator whose result it converts; None for none."""
    producers = {name: node for node in graph.node for name in node.output}
    found: dict[str, str | None] = {}
    for node in graph.node:
        source: onnx.NodeProto | None = node
        while source is not None and _converts(source.op_type, source.name):
            source = producers.get(source.input[0])
        if source is not node:
            found[node.name] = operators.get(_stem(source.name)) if source is not None else None
    return found


def _converts(kind: str, name: str) -> bool:
    # The engine's own Transposes, between layouts, are named for their type.
    return kind in CONVERSIONS or (kind == "Transpose" and base_name(name) == kind)


def _stem(name: str) -> str:
    return base_name(name).removesuffix(BARRIER)


def read_times(events: list[dict[str, Any]], operators: Mapping[str, str],
               converted: Mapping[str, str | None], alone: Mapping[str, float]) -> Profile:
    """Times of the nodes, from the events of several profiled runs, the first of them left out, where not known better.

    Args:
        events: What the engine recorded.
        operators: Name of a node or of its output to the operator of the user's model it stands for.
        converted: See `origins`.
        alone: Seconds of nodes that were run on their own, by name.
    """
    nodes: dict[tuple[str, str], NodeTimes] = {}
    for event in _node_events(events):
        kind, name = event["args"]["op_name"], event["name"].removesuffix("_kernel_time")
        if (kind, name) not in nodes:
            conversion = _converts(kind, name)
            owner = converted.get(name) if conversion else operators.get(_stem(name))
            shapes = event["args"].get("output_type_shape", [])
            elements = prod(next(iter(shapes[0].values()))) if shapes else 0
            nodes[kind, name] = NodeTimes(owner, conversion, elements)
            continue
        nodes[kind, name].seconds.append(alone.get(name, event["dur"] * 1e-6))
    return summarise(nodes.values(), True)


def _node_events(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]


def read_profile(events: list[dict[str, Any]], operators: Mapping[str, str]) -> ExecutedOps:
    """Executed operators from the events of one profiled run."""
    int8: Counter[str] = Counter()
    fp32: Counter[str] = Counter()
    names: set[str] = set()
    conversions = 0
    for event in _node_events(events):
        kind = event["args"]["op_name"]
        name = event["name"].removesuffix("_kernel_time")
        if kind in CONVERSIONS:
            conversions += 1
        elif kind not in MOVEMENT and not name.endswith(BARRIER):
            types = [next(iter(shape)) for shape in event["args"].get("input_type_shape", [])]
            if is_int8(kind, types):
                int8[plain_type(kind)] += 1
                names.add(operators.get(base_name(name), base_name(name)))
            elif not types or types[0] in ("float", "float16", "double"):
                fp32[plain_type(kind)] += 1
    return ExecutedOps(int8, fp32, frozenset(names), conversions)


def is_int8(kind: str, input_types: list[str]) -> bool:
    """Whether a kernel of this type, given these inputs, computes in int8."""
    return kind.startswith("QLinear") or kind in INT8_ONLY or bool(input_types and input_types[0] in ("uint8", "int8"))


def plain_type(kind: str) -> str:
    """An executed kernel's type in the words of the model."""
    return PLAIN_TYPES.get(kind, kind.removeprefix("QLinear"))


def base_name(name: str) -> str:
    """A node's name without what the engine's optimizers append to it."""
    name = name.removesuffix("_nchwc").removesuffix("_nhwc")
    head, mark, tail = name.rpartition("_token_")
    return head if mark and tail.isdigit() else name


def optimize(model: bytes) -> onnx.ModelProto:
    """The graph as the engine would run it, after all its default optimizations.

    Raises:
        EngineError: the engine refuses the model.
    """
    with tempfile.TemporaryDirectory(prefix="ncs-optimized-") as folder:
        target = Path(folder) / "optimized.onnx"
        chosen = options(1)
        chosen.optimized_model_filepath = str(target)
        try:
            ort.InferenceSession(model, chosen, providers=PROVIDERS)
        except Exception as error:  # onnxruntime raises a class of its own for every status code
            raise EngineError(f"onnxruntime refuses the model: {first_line(error)}") from error
        return onnx.load(str(target))
