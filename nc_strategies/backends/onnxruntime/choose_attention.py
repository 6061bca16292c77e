"""Whether attention in floating point runs as one kernel: measured for a model on this processor."""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
import time
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from nc_strategies.backends.onnxruntime.attention import KIND, AttentionFusion
from nc_strategies.backends.onnxruntime.providers import CPU, Provider
from nc_strategies.backends.onnxruntime.session import OrtExecutable
from nc_strategies.errors import EngineError
from nc_strategies.models.info import Batch, ModelInfo
from nc_strategies.onnx_graph import external
from nc_strategies.onnx_graph.qdq import GraphBuilder
from nc_strategies.runtime import cache, machine
from nc_strategies.space import FLOAT, Config

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttentionChoice:
    """How the two forms of a model are compared.

    Args:
        samples: Samples on which both must return the same: more than one, so that axes are not confused.
        tolerance: Largest difference of an output, relative to its largest value: far above float32 rounding.
        min_runs: Runs of each form, by turns, on one sample.
        max_runs: Most runs of each form.
        seconds: Time for the runs, after `min_runs`.
        most_ratio: Median time of the fused form, relative to the other's, up to which it is taken. The sessions of one
            graph differ by a few percent.
        version: Version of the comparison, a part of the cache's key.
    """

    samples: int = 3
    tolerance: float = 1e-4
    min_runs: int = 10
    max_runs: int = 60
    seconds: float = 0.4
    most_ratio: float = 0.97
    version: int = 1


CHOICE = AttentionChoice()


def choose_attention(
    builder: GraphBuilder, batch: Batch, info: ModelInfo, threads: int, wanted: str, provider: Provider = CPU
) -> tuple[bool, tuple[str, ...]]:
    """Whether to fuse the attentions of a model, and what the user should know of that.

    Args:
        builder: Builds the model's graphs; it is left as it was.
        batch: Samples of the calibration data.
        info: The model's inputs, with the axes that count samples.
        threads: Threads per run.
        wanted: ``auto``, ``always`` or ``never``.
        provider: Execution provider that runs the two forms.
    """
    found = len(AttentionFusion(builder.graph, builder.graph.model.graph.node).cores()) if wanted != "never" else 0
    if not found or (wanted == "auto" and not external.may_be_reworked(builder.graph.model)):
        return False, ()
    try:
        takes = _Comparison(builder, batch, info, threads, provider).fused_wins(wanted == "always")
    except EngineError as error:
        log.warning("attention is left in single steps: %s", error)
        return False, (f"attention is left in single steps: {error}",)
    return takes, (f"attention in floating point runs as one kernel ({KIND}) in {found} places",) if takes else ()


class _Comparison:
    def __init__(self, builder: GraphBuilder, batch: Batch, info: ModelInfo, threads: int, provider: Provider) -> None:
        self.builder, self.threads, self.provider = builder, threads, provider
        self.samples = info.rows(batch, 0, CHOICE.samples)
        self.one = info.rows(batch, 0, 1)

    def fused_wins(self, always: bool) -> bool:
        """Whether the fused form is to be used.

        Raises:
            EngineError: the engine refuses the fused form, or it computes something else.
        """
        (fused, digest), (plain, _) = self._model(True), self._model(False)
        name = f"attention-{self._key(digest)}.json"
        held = cache.read(name)
        if held in ("true", "false") and not always:
            return held == "true"
        opened: list[OrtExecutable] = []
        try:
            for model in (fused, plain):
                opened.append(OrtExecutable(model, self.threads, provider=self.provider))
            self._check(*opened)
            ratio = 0.0 if always else self._ratio(*opened)
        finally:
            for executable in opened:
                executable.close()
        if always:
            return True
        log.info("with attention as one kernel, the fp32 model takes %.3f of its time", ratio)
        cache.keep(name, json.dumps(ratio <= CHOICE.most_ratio))
        return ratio <= CHOICE.most_ratio

    def _model(self, fused: bool) -> tuple[bytes, str]:
        config = Config(tuple((name, FLOAT) for name in self.builder.graph.fused_ops))
        before = self.builder.fused_attention
        self.builder.fused_attention = fused
        try:
            model, digest = self.builder.build(config, lambda *_: (-1.0, 1.0))
        finally:
            self.builder.fused_attention = before
        return model.SerializeToString(), digest

    def _key(self, digest: str) -> str:
        shapes = {name: np.shape(array) for name, array in self.one.items()}
        facts = [CHOICE.version, ort.__version__, machine.identity(), self.threads, digest, sorted(shapes.items())]
        facts += self.provider.cache_key()
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def _check(self, fused: OrtExecutable, plain: OrtExecutable) -> None:
        for ours, theirs in zip(fused.predict(self.samples), plain.predict(self.samples), strict=True):
            if np.asarray(theirs).dtype.kind != "f":
                continue
            limit = CHOICE.tolerance * float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0))
            if np.shape(ours) != np.shape(theirs) or not np.allclose(ours, theirs, rtol=0, atol=limit, equal_nan=True):
                raise EngineError(f"{KIND} does not compute what the model's steps compute")

    def _ratio(self, fused: OrtExecutable, plain: OrtExecutable) -> float:
        seconds: tuple[list[float], list[float]] = ([], [])
        begun = time.perf_counter()
        for count in range(CHOICE.max_runs):
            if count >= CHOICE.min_runs and time.perf_counter() - begun > CHOICE.seconds:
                break
            for model, taken in ((fused, seconds[0]), (plain, seconds[1])):
                start = time.perf_counter()
                model.predict(self.one)
                taken.append(time.perf_counter() - start)
        return statistics.median(seconds[0]) / statistics.median(seconds[1])
