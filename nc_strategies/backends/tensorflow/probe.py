"""Which int8 kernels this processor and this TensorFlow really run, tried out in a child process.

A kernel that meets what it does not support may abort the process it runs in, and 8-bit products may saturate: without
VNNI, two products of u8 and s8 are added in 16 bits (oneDNN, "Nuances of int8 computations"). The answer is kept in the
user's cache: the child imports TensorFlow, and on a busy machine doubles the time until a model is loaded.

Run as a module, it takes the names of cases to leave out and prints one line before and one after each case.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nc_strategies.runtime import cache, machine
from nc_strategies.runtime.process import be_expendable, child_environment

if TYPE_CHECKING:
    from nc_strategies.backends.tensorflow.graph import Graph

KINDS = ("Conv2D", "DepthwiseConv2dNative", "MatMul")
DTYPES = ("uint8", "int8")
SIGNED_SUM = "Sum/int8"
"""The case of `build.SIGNED_SUM`."""
CASES = (*(f"{kind}/{dtype}" for kind in KINDS for dtype in DTYPES), SIGNED_SUM)
MODULE = "nc_strategies.backends.tensorflow.probe"
SECONDS = 120
CPUINFO = Path("/proc/cpuinfo")
EXACT, SATURATES, WRONG = "exact", "saturates", "wrong"


@dataclass(frozen=True)
class Kernels:
    """What the probe found.

    Args:
        results: Case (``Conv2D/uint8``, ...) to ``exact``, ``saturates`` (right with weights up to half of the range
            only) or ``wrong``; a case that failed or aborted is left out.
        failures: Case to the reason it is left out.
    """

    results: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    def runs(self, kind: str, dtype: str) -> bool:
        """Whether the kernel gives right results, with reduced weights at least."""
        return self.results.get(f"{kind}/{dtype}") in (EXACT, SATURATES)

    def saturates(self, kind: str, dtype: str) -> bool:
        """Whether weights beyond half of the range overflow."""
        return self.results.get(f"{kind}/{dtype}") == SATURATES


class Probe:
    """The child process, started at once and waited for when its result is needed; or what one found before.

    Args:
        name: What its result is kept as, between runs; None asks a child whatever was found before.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name
        self._kept = None if name is None else _kept(cache.read(name))
        self._child = None if self._kept is not None else _start(())

    def result(self) -> Kernels:
        """Wait for the child; start another without the case that a child aborted on."""
        if self._child is None:
            assert self._kept is not None
            return self._kept
        found, whole = self._ask(self._child)
        if whole and self._name is not None:
            # A child may have been ended by chance: only what one tried from first to last is kept.
            cache.keep(self._name, json.dumps({"results": found.results, "failures": found.failures}))
        return found

    @staticmethod
    def _ask(child: subprocess.Popen[str]) -> tuple[Kernels, bool]:
        """What was found, and whether by the first child."""
        results: dict[str, str] = {}
        failures: dict[str, str] = {}
        whole = True
        while True:
            try:
                output, _ = child.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                output, _ = child.communicate()
            begun, finished = _read(output, results, failures)
            if finished:
                return Kernels(results, failures), whole
            whole = False
            if not begun:
                return Kernels(results, {"all": f"the probe ended with status {child.returncode}"} | failures), whole
            failures[begun] = f"the kernel aborts the process (status {child.returncode})"
            child = _start((*results, *failures))


@functools.cache
def shared_probe() -> Probe:
    """One probe a process."""
    return Probe(_name())


@functools.cache
def kernels() -> Kernels:
    """What the shared probe found."""
    return shared_probe().result()


def _name() -> str:
    """A name that changes with what the answer may depend on: TensorFlow, the processor, settings, this code."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        code.update(path.read_bytes())
    facts = [library(), machine.identity(CPUINFO), sys.version, sorted(kernel_settings().items()), code.hexdigest()]
    return f"tensorflow-kernels-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.json"


def library() -> list[str | int]:
    """What tells this TensorFlow from one of another version, without importing it: path, time and size of a file."""
    spec = find_spec("tensorflow")
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    return [str(origin), origin.stat().st_mtime_ns, origin.stat().st_size] if origin else []


def kernel_settings() -> dict[str, str]:
    """Environment variables by which TensorFlow and oneDNN choose their kernels."""
    return {
        name: value
        for name, value in child_environment().items()
        if name.startswith(("TF_", "ONEDNN_", "DNNL_")) and name != "TF_CPP_MIN_LOG_LEVEL"
    }


def _kept(text: str | None) -> Kernels | None:
    """What an earlier probe found; None where there is nothing, or nothing that makes sense."""
    try:
        found = json.loads(text or "")
        kept = Kernels(dict(found["results"]), dict(found["failures"]))
    except (ValueError, TypeError, KeyError):
        return None
    sound = {*kept.results, *kept.failures} == {*CASES} and {*kept.results.values()} <= {EXACT, SATURATES, WRONG}
    return kept if sound else None


def _start(skip: tuple[str, ...]) -> subprocess.Popen[str]:
    paths = [entry for entry in sys.path if entry]
    environment = {**child_environment(), "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(
        [sys.executable, "-m", MODULE, *skip],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def _read(output: str, results: dict[str, str], failures: dict[str, str]) -> tuple[str, bool]:
    begun = ""
    for line in output.splitlines():
        if not line.startswith("{"):
            continue
        event = json.loads(line)
        if "begin" in event:
            begun = event["begin"]
        elif "case" in event:
            begun = ""
            (failures if "error" in event else results)[event["case"]] = event.get("error") or event["result"]
        elif "end" in event:
            return "", True
    return begun, False


def main(skip: list[str]) -> None:
    """Try every case."""
    from nc_strategies.errors import EngineError

    for case in CASES:
        if case in skip:
            continue
        _print({"begin": case})
        try:
            result = _classify_sum() if case == SIGNED_SUM else _classify(*case.split("/"))
            _print({"case": case, "result": result})
        except EngineError as error:
            _print({"case": case, "error": str(error)[:200]})
    _print({"end": True})


def _print(event: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _classify(kind: str, dtype: str) -> str:
    from nc_strategies.backends.tensorflow.weights import FULL, REDUCED

    full, reduced = _ratio(kind, dtype, FULL), _ratio(kind, dtype, REDUCED)
    if abs(reduced - 1) > 0.05:
        return WRONG
    return EXACT if abs(full - 1) < 0.05 else SATURATES


def _classify_sum() -> str:
    """Whether a convolution with a signed addend and ReLU reaches the highest value of its unsigned output."""
    return EXACT if abs(_sum_ratio() - 1) < 0.05 else SATURATES


def _sum_ratio() -> float:
    """The largest sum that the kernel computes, over the true one."""
    import numpy as np

    from nc_strategies.backends.tensorflow.graph import Graph
    from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow
    from nc_strategies.backends.tensorflow.weights import FULL

    tf, channels = tensorflow(), 8
    graph = Graph()
    shape = [4, 4, channels]
    graph.add("Placeholder", "x", [], dtype=tf.float32, shape=tf.TensorShape([None, *shape]))
    graph.constant("w", np.full([1, 1, channels, channels], 1 / channels, np.float32))
    graph.constant("b", np.zeros(channels, np.float32))
    plain = {"strides": [1, 1, 1, 1], "padding": "VALID", "data_format": "NHWC", "dilations": [1, 1, 1, 1]}
    for name in ("addend", "y"):
        graph.add("Conv2D", name, ["x", "w"], T=tf.float32, **plain)
        graph.add("BiasAdd", f"{name}/bias", [name, "b"], T=tf.float32, data_format="NHWC")
    graph.add("AddV2", "sum", ["addend/bias", "y/bias"], T=tf.float32)
    graph.add("Relu", "relu", ["sum"], T=tf.float32)
    graph.constant("last", np.eye(channels, dtype=np.float32).reshape(1, 1, channels, channels))
    graph.add("Conv2D", "end", ["relu", "last"], T=tf.float32, **plain)
    ranges = {"relu": (0.0, 2.0), "end": (0.0, 2.0)}
    return _run(graph, "end", shape, ranges, "uint8", FULL) / 2


def _ratio(kind: str, dtype: str, level: int) -> float:
    """A sum of the largest activations times `level`, computed by the kernel, over its true value."""
    import numpy as np

    from nc_strategies.backends.tensorflow.graph import Graph
    from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow

    tf, channels = tensorflow(), 32
    shape, weight_shape = {
        "Conv2D": ([4, 4, channels], [3, 3, channels, channels]),
        "DepthwiseConv2dNative": ([4, 4, channels], [3, 3, channels, 1]),
        "MatMul": ([channels * 8], [channels * 8, channels]),
    }[kind]
    graph = Graph()
    graph.add("Placeholder", "x", [], dtype=tf.float32, shape=tf.TensorShape([None, *shape]))
    source = graph.add("Relu", "relu", ["x"], T=tf.float32) if dtype == "uint8" else "x"
    graph.constant("w", np.ones(weight_shape, np.float32))
    if kind == "MatMul":
        graph.add(kind, "y", [source, "w"], T=tf.float32, transpose_a=False, transpose_b=False)
    else:
        graph.add(
            kind,
            "y",
            [source, "w"],
            T=tf.float32,
            strides=[1, 1, 1, 1],
            padding="VALID",
            data_format="NHWC",
            dilations=[1, 1, 1, 1],
        )
    true = float(np.prod(weight_shape[:-1]) if kind != "DepthwiseConv2dNative" else 9)
    return _run(graph, "y", shape, {"y": (-true, true)}, dtype, level) / true


def _run(
    graph: Graph, end: str, shape: list[int], ranges: Mapping[str, tuple[float, float]], dtype: str, level: int
) -> float:
    """The smallest output of a graph in int8 for an input of ones; ranges not given are of one to either side."""
    import numpy as np

    from nc_strategies.backends.tensorflow.build import BuildContext, GraphBuilder
    from nc_strategies.backends.tensorflow.fused_ops import match
    from nc_strategies.backends.tensorflow.loading import Port
    from nc_strategies.backends.tensorflow.session import SessionExecutable
    from nc_strategies.backends.tensorflow.weights import WeightCache
    from nc_strategies.models.info import TensorSpec
    from nc_strategies.space import OpScheme, TensorScheme

    matched = match(graph, [end])
    parts = BuildContext(graph, matched, (end,), WeightCache(graph), lambda tensor, _: ranges.get(tensor, (-1.0, 1.0)))
    scheme = OpScheme(TensorScheme(dtype), TensorScheme("int8", "sym", "per_channel"))
    built = GraphBuilder(parts, dict.fromkeys(matched.fused_ops, scheme), lambda *_: level).build()
    port = Port(TensorSpec("x", (None, *shape), np.dtype(np.float32)), "x")
    executable = SessionExecutable(built.graph.to_def(), [port], built.outputs, 1, "", rewriting="none")
    return float(executable.predict({"x": np.ones([2, *shape], np.float32)})[0].min())


if __name__ == "__main__":
    be_expendable()
    main(sys.argv[1:])
