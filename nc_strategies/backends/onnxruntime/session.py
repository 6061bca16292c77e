"""ONNX Runtime sessions, and the operators that they execute."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from nc_strategies.backends.base import FEW_PROFILED_RUNS, Executable, ExecutedOps, Profile
from nc_strategies.backends.onnxruntime.executed import node_events, read_profile
from nc_strategies.backends.onnxruntime.node_timing import origins, read_times
from nc_strategies.backends.onnxruntime.providers import CPU, Provider, refusal
from nc_strategies.errors import EngineError
from nc_strategies.models.info import Batch
from nc_strategies.onnx_graph import external
from nc_strategies.onnx_graph.interpreter import open_session, options, options_to_look, run, start
from nc_strategies.runtime import memory


def _profiled(
    model: bytes | Path, threads: int, batch: Batch, runs: int, optimized: Path | None = None, provider: Provider = CPU
) -> tuple[ort.InferenceSession, list[dict[str, Any]]]:
    """Open a session and profile its first runs. Later runs are not profiled.

    Args:
        model: A serialized model, or the path of one.
        threads: Threads per run.
        batch: Input of the runs.
        runs: Number of profiled runs.
        optimized: Path at which the engine writes its optimized graph; None to write none.
        provider: Execution provider of the session.

    Returns:
        The session, and the events of its profile.
    """
    with tempfile.TemporaryDirectory(prefix="ncs-profile-") as folder:
        chosen = options(threads)
        chosen.enable_profiling = True
        chosen.profile_file_prefix = str(Path(folder) / "profile")
        if optimized is not None:
            chosen.optimized_model_filepath = str(optimized)
        session = start(model, chosen, provider.for_session())
        for _ in range(runs):
            run(session, batch)
        return session, json.loads(Path(session.end_profiling()).read_text())


class OrtExecutable(Executable):
    """A session with the engine's default optimizations.

    Args:
        model: A serialized model, or the path of one.
        threads: Threads per run.
        fingerprint: Hash of the graph.
        operators: Name of a node or of its output to the operator of the user's model that it computes.
        probe: A batch for one profiled run, from which the executed operators are read.
        kernel_times: Returns the seconds of an optimized graph's nodes on a batch, by node name. The engine's profiler
            supplies those that are missing.
        size_bytes: Size of the model as it would be saved; 0 for that of `model` with its external data.
        provider: Execution provider of its sessions.

    Raises:
        EngineError: the engine refuses the model.
    """

    def __init__(
        self,
        model: bytes | Path,
        threads: int,
        fingerprint: str = "",
        operators: Mapping[str, str] | None = None,
        probe: Batch | None = None,
        kernel_times: Callable[[onnx.ModelProto, Batch], Mapping[str, float]] | None = None,
        size_bytes: int = 0,
        provider: Provider = CPU,
    ) -> None:
        self.fingerprint, self._provider = fingerprint, provider
        self.size_bytes = size_bytes or (len(model) if isinstance(model, bytes) else external.file_bytes(model))
        self._operators = operators or {}
        self._executed: ExecutedOps | None = None
        # The engine's session holds on to the serialized model as well, so this reference costs no memory.
        self._model, self._threads, self._kernel_times = model, threads, kernel_times
        # Each session is opened in a thread of its own, because the C library's allocator has an arena per thread. In
        # the main arena, fragmented by earlier sessions, a session's buffers are scattered and it runs up to 5 %
        # slower. Latency would then increase from trial to trial.
        self._thread = ThreadPoolExecutor(1)
        self._session: ort.InferenceSession | None = None
        self._thread.submit(self._start, probe).result()

    def _start(self, probe: Batch | None) -> None:
        if probe is None:
            self._session = start(self._model, options(self._threads), self._provider.for_session())
            return
        self._session, events = _profiled(self._model, self._threads, probe, 1, None, self._provider)
        self._executed = read_profile(events, self._operators, self._provider)

    @property
    def session(self) -> ort.InferenceSession:
        """The engine's session.

        Raises:
            EngineError: the executable was closed.
        """
        if self._session is None:
            raise EngineError("the model was closed")
        return self._session

    def predict(self, batch: Batch) -> Sequence[NDArray[Any]]:
        """See `Executable.predict`."""
        return run(self.session, batch)

    def close(self) -> None:
        """See `Executable.close`."""
        if self._session is not None:
            self._thread.submit(self._forget).result()
            self._thread.shutdown()

    def profile(self, batch: Batch, runs: int) -> Profile:
        """See `Executable.profile`. A separate session is profiled, because profiling slows every run.

        With few runs, no node is timed alone: that takes up to 0.1 s for each kind of node.
        That of a large model is profiled while its own one is closed.
        """
        if self.size_bytes < external.LIMITS.profiled_beside_bytes or self._session is None:
            return self._profile(batch, runs)
        self._thread.submit(self._forget).result()
        try:
            return self._profile(batch, runs)
        finally:
            self._thread.submit(self._start, None).result()

    def _forget(self) -> None:
        self._session = None
        if self.size_bytes >= external.LIMITS.model_bytes:
            memory.release()

    def _profile(self, batch: Batch, runs: int) -> Profile:
        alone: Mapping[str, float] = {}
        with tempfile.TemporaryDirectory(prefix="ncs-optimized-") as folder:
            path = Path(folder) / "optimized.onnx"
            events = _profiled(self._model, self._threads, batch, 2, path, self._provider)[1]
            optimized = onnx.load(str(path), load_external_data=False)
        if isinstance(self._model, Path):
            external.rebase(optimized, self._model.parent)
        if self._kernel_times is not None and runs > FEW_PROFILED_RUNS:
            alone = self._kernel_times(optimized, batch)
        if any(event["name"].removesuffix("_kernel_time") not in alone for event in node_events(events)):
            events = _profiled(self._model, self._threads, batch, runs + 1, None, self._provider)[1]
        return read_times(events, self._operators, origins(optimized.graph, self._operators), alone)

    def executed(self) -> ExecutedOps:
        """The executed operators, from the engine's profile of one run.

        Raises:
            EngineError: the executable was created without a probe batch.
        """
        if self._executed is None:
            raise EngineError("created without a probe batch: the executed operators were not recorded")
        return self._executed


def optimize(model: bytes, provider: Provider = CPU) -> onnx.ModelProto:
    """The graph that the engine executes, after its default optimizations.

    Args:
        model: A serialized model.
        provider: Execution provider that the graph is optimized for.

    Raises:
        EngineError: the engine refuses the model.
        InputError: the provider compiles operators together, so that the engine has no graph of them.
    """
    with tempfile.TemporaryDirectory(prefix="ncs-optimized-") as folder:
        target = Path(folder) / "optimized.onnx"
        chosen = options_to_look(ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
        chosen.optimized_model_filepath = str(target)
        try:
            open_session(model, chosen, provider.for_session())
        except Exception as error:  # onnxruntime has one exception class per status code
            raise refusal(error, provider) from error
        return onnx.load(str(target), load_external_data=False)
