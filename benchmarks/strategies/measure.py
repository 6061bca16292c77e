"""Measures a table: every configuration of a case, and the estimates that strategies may ask for.

What is measured goes into a journal at once, so that a measurement can stop after some seconds and continue later.
"""

from __future__ import annotations

import base64
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.api import Config, EngineError, Metric, Space
from nc_strategies.app import target as targets
from nc_strategies.app.settings import run_config
from nc_strategies.measuring.lengths import interleave_batches
from nc_strategies.runtime.machine import processor_name
from nc_strategies.space.scheme import way
from nc_strategies.study.estimates import terms_to_dict
from strategies.cases import Case
from strategies.table import Estimate, Table

DRAWS = 16
"""Random vectors of the Hessian's trace: the default of `hawq_v2`."""
DIVERGENCE_BATCHES = 2
"""Batches of calibration samples of a divergence: the default of `mse_v2`. A replay gives it for one batch too."""
CLOCK = time.process_time
"""Latency and all seconds of a table are time of the processor. With one thread that is the time of a run on a quiet
machine, and other processes on this one do not count, but for what they take of caches and memory."""
LEAST_TIMED = 0.5
"""Share of the configurations that must be timed before there is a table."""
UNFINISHED = 75
"""Exit status of a measurement that has stopped before its end (``EX_TEMPFAIL``)."""


class Journal:
    """JSON lines of what is measured.

    Args:
        path: The file; it is continued.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        if path.is_file():
            self.entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def add(self, **entry: Any) -> None:
        """Append an entry."""
        self.entries.append(entry)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def of(self, part: str) -> list[dict[str, Any]]:
        """All entries of a part."""
        return [entry for entry in self.entries if entry["part"] == part]


class Recorder:
    """Keeps the score of each sample of the latest evaluation.

    Args:
        metric: Its method `compute` is wrapped.
    """

    def __init__(self, metric: Metric) -> None:
        self.scores: NDArray[np.float64] = np.zeros(0)
        compute = metric.compute

        def recording(outputs: Any, labels: NDArray[Any]) -> float:
            scores = metric.scores(outputs, labels)
            if scores is None:
                raise SystemExit(f"{type(metric).__name__} is no mean of scores: no trial of it can be replayed")
            self.scores = np.asarray(scores, np.float64)
            return compute(outputs, labels)

        metric.compute = recording  # type: ignore[method-assign]


def configurations(space: Space) -> list[tuple[tuple[int, ...], Config]]:
    """Every configuration of a space, each with the place of its scheme in every group's schemes."""
    schemes = [space.schemes(group) for group in space.groups]
    base = space.default()
    found = []
    for places in itertools.product(*(range(len(some)) for some in schemes)):
        chosen = {
            name: some[place]
            for group, some, place in zip(space.groups, schemes, places, strict=True)
            for name in group
        }
        found.append((places, base.with_ops(chosen)))
    return found


class Bench:
    """A model on a backend, ready to be measured.

    Args:
        case: The case.
        models: Folder of models that are not bundled.
        work: Folder of the journal.
    """

    def __init__(self, case: Case, models: Path | None, work: Path) -> None:
        self.case = case
        work.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(work / f"{case.name}.jsonl")
        self.target = targets.build(run_config(case.values(models)))
        parts = self.target.parts
        parts.backend.clock = CLOCK
        parts.evaluation = parts.evaluation.take(0, min(case.samples, len(parts.evaluation)))
        self.recorder = Recorder(self.target.parts.metric)
        self.target.load()
        able = self.target.calibrate()
        self.space = Space(case.narrowed(able))
        self.target.baseline(self.space)
        self.reference_scores = self.recorder.scores.copy()
        self.configs = configurations(self.space)

    def accuracy(self, seconds: float) -> bool:
        """Measure what does not depend on the clock: scores, operators, graphs, divergences; True at the end."""
        done, end = {entry["index"] for entry in self.journal.of("accuracy")}, time.monotonic() + seconds
        for index, (_, config) in enumerate(self.configs):
            if index in done:
                continue
            if time.monotonic() > end:
                return False
            self.journal.add(part="accuracy", index=index, **self._accuracy(config))
        return True

    def _accuracy(self, config: Config) -> dict[str, Any]:
        try:
            # Each configuration is evaluated, even if another one has the same graph: the scores are recorded here.
            self.target.measurer._graphs.clear()
            found = self.target.measure(config)
            noise = self.target.divergence(config, DIVERGENCE_BATCHES)
        except EngineError as error:
            return {"error": str(error)}
        return {
            "scores": _packed(self.recorder.scores),
            "graph": found.graph,
            "size": found.ratio("size"),
            "int8_ops": found.int8_ops,
            "fp32_ops": found.fp32_ops,
            "divergence": noise,
        }

    def latency(self, seconds: float) -> bool:
        """Time everything that takes time: estimates first, then sessions of the configurations; True at the end."""
        end = time.monotonic() + seconds
        if not all(self._estimate(name, ask) for name, ask in self._estimates() if time.monotonic() < end):
            return False
        failed = {entry["index"] for entry in self.journal.of("accuracy") if "error" in entry}
        done = {(entry["session"], entry["index"]) for entry in self.journal.of("latency")}
        for session in range(self.case.sessions):
            # A random order: a drift of the machine does not follow the order of the configurations.
            for index in np.random.default_rng(session).permutation(len(self.configs)).tolist():
                if index in failed or (session, index) in done:
                    continue
                if time.monotonic() > end:
                    return False
                self.journal.add(part="latency", index=index, session=session, **self._latency(index, session))
        return True

    def _latency(self, index: int, session: int) -> dict[str, float]:
        measurer = self.target.measurer
        start = CLOCK()
        model = self.target.parts.backend.build(self.configs[index][1])
        model.predict(measurer.batch)
        built = CLOCK() - start
        start = CLOCK()
        timing = interleave_batches(
            [measurer.baseline.reference, model],
            measurer.timed,
            self.case.runs,
            np.random.default_rng([session, index]),
            clock=CLOCK,
        )
        took = CLOCK() - start
        ratio, (_, high) = timing.ratio(1, 0), timing.ratio_interval(1, 0)
        evaluated = 0.0
        if session == 0:
            batch, _, count = next(measurer.data.batches(measurer.settings.evaluation_batch_size))
            model.predict(batch)
            begun = CLOCK()
            model.predict(batch)
            evaluated = (CLOCK() - begun) / count * measurer.samples
        model.close()
        return {
            "ratio": ratio,
            "spread": high / ratio - 1,
            "fp32_ms": timing.median_ms(0),
            "build": built,
            # A trial has 100 timed runs of both models, whatever this session has.
            "latency": took * 100 / timing.runs,
            "accuracy": evaluated,
        }

    def _estimates(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        target = self.target
        yield "sensitivity", target.sensitivity
        ways = {way(s) for group in self.space.groups for s in self.space.schemes(group) if not s.is_float}
        for mode in sorted(ways):
            yield f"sensitivity {mode}", lambda mode=mode: target.sensitivity(mode)
        yield "divergence", self._noise_seconds
        yield "terms", lambda: terms_to_dict(target.latency_terms())
        if target.gradients():
            yield "hessian", lambda: dict(target.hessian(DRAWS))

    def _estimate(self, name: str, ask: Callable[[], Any]) -> bool:
        if any(entry["name"] == name for entry in self.journal.of("estimate")):
            return True
        start = CLOCK()
        value = ask()
        self.journal.add(part="estimate", name=name, value=value, seconds=CLOCK() - start)
        return True

    def _noise_seconds(self) -> float:
        """Mean seconds of a divergence: a build and a run of a few samples."""
        some = [config for _, config in self.configs[:3]]
        start = CLOCK()
        for config in some:
            self.target.divergence(config)
        return (CLOCK() - start) / len(some)

    def enough(self) -> bool:
        """Whether all is scored and estimated, and enough is timed for the latency of the rest to be fitted."""
        accuracy = self.journal.of("accuracy")
        scored = sum("error" not in entry for entry in accuracy)
        timed = len({entry["index"] for entry in self.journal.of("latency")})
        return len(accuracy) == len(self.configs) and timed >= LEAST_TIMED * scored

    def table(self) -> Table:
        """The table of all entries. Timings that are missing are not a number there.

        Raises:
            SystemExit: entries are missing.
        """
        count = len(self.configs)
        sessions = self.case.sessions
        accuracy = {entry["index"]: entry for entry in self.journal.of("accuracy")}
        timed = {(entry["session"], entry["index"]): entry for entry in self.journal.of("latency")}
        whole = [i for i in range(count) if i in accuracy and "error" not in accuracy[i]]
        if not self.enough():
            raise SystemExit(f"{self.case.name}: {len(accuracy)} of {count} scored, {len(timed)} sessions timed")
        samples = len(self.reference_scores)
        blank: dict[str, Any] = {
            "scores": _packed(np.zeros(samples)), "graph": "", "size": 1.0, "int8_ops": 0, "fp32_ops": 0,
            "divergence": float("inf"),
        }  # fmt: skip
        rows = [accuracy[i] if i in whole else blank for i in range(count)]
        graphs = {graph: place for place, graph in enumerate(dict.fromkeys(row["graph"] for row in rows))}
        empty = dict.fromkeys(("ratio", "spread", "build", "latency", "accuracy", "fp32_ms"), float("nan"))

        def column(name: str, session: int) -> list[float]:
            return [timed.get((session, i), empty)[name] for i in range(count)]

        def each(name: str) -> NDArray[np.float32]:
            return np.array([column(name, session) for session in range(sessions)], np.float32).T

        metric, parts = self.target.parts.metric, self.target.parts
        estimates = {entry["name"]: Estimate(entry["value"], entry["seconds"]) for entry in self.journal.of("estimate")}
        able = self.space.capabilities
        return Table(
            name=self.case.name,
            about={
                "model": self.case.model,
                "backend": self.case.backend,
                "processor": processor_name(),
                "date": datetime.now(UTC).date().isoformat(),
                "versions": dict(self.target.versions()),
                "metric": self.target.config.metrics.accuracy["name"],
                "threads": self.target.config.measure.threads,
                "runs": self.case.runs,
                "fp32_ms": float(np.nanmedian(each("fp32_ms"))),
                "settings": dict(self.case.settings),
                "evaluation_batch_size": self.target.config.measure.evaluation_batch_size,
                "score_range": list(metric.score_range),
                "higher_is_better": self.target.higher_is_better,
                "model_file": parts.model.name,
            },
            capabilities=replace(able, ops=tuple(self.space.ops.values())),
            choices=np.array([places for places, _ in self.configs], np.uint8),
            reference=self.reference_scores,
            scores=np.array([_unpacked(row["scores"], samples) for row in rows]),
            failed=np.array([i not in whole for i in range(count)]),
            graph=np.array([graphs[row["graph"]] for row in rows], np.int32),
            size=np.array([row["size"] for row in rows], np.float32),
            int8_ops=np.array([row["int8_ops"] for row in rows], np.int16),
            fp32_ops=np.array([row["fp32_ops"] for row in rows], np.int16),
            divergence=np.array([row["divergence"] for row in rows], np.float32),
            ratio=each("ratio"),
            spread=each("spread"),
            build_seconds=_mean(each("build")),
            latency_seconds=_mean(each("latency")),
            accuracy_seconds=np.array(column("accuracy", 0), np.float32),
            estimates=estimates,
        )


def _mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over sessions, not a number where there is none."""
    count = np.isfinite(values).sum(1)
    return np.where(count > 0, np.nansum(values, 1) / np.maximum(count, 1), np.nan).astype(np.float32)


def _packed(scores: NDArray[np.float64]) -> str:
    """Scores as text: bits where all are 0 or 1, else numbers of 16 bits."""
    hits = bool(np.isin(scores, (0.0, 1.0)).all())
    data = np.packbits(scores.astype(bool)).tobytes() if hits else scores.astype(np.float16).tobytes()
    return ("b" if hits else "f") + base64.b64encode(data).decode()


def _unpacked(text: str, count: int) -> NDArray[np.float64]:
    data = base64.b64decode(text[1:])
    if text[0] == "b":
        return np.unpackbits(np.frombuffer(data, np.uint8), count=count).astype(np.float64)
    return np.frombuffer(data, np.float16).astype(np.float64)


def measure(case: Case, models: Path | None, work: Path, out: Path, part: str, seconds: float) -> int:
    """Measure until the seconds have passed or all is measured; write the table at the end.

    Args:
        case: The case.
        models: Folder of models that are not bundled.
        work: Folder of the journal.
        out: Folder of the table.
        part: ``accuracy``, ``latency`` or ``all``.
        seconds: Seconds after which to stop. A table is written once half of the configurations are timed.

    Returns:
        Exit status: 0 when all is measured, otherwise `UNFINISHED`.
    """
    end = time.monotonic() + seconds
    bench = Bench(case, models, work)
    print(f"ready: {len(bench.configs)} configurations", flush=True)
    if part in ("accuracy", "all") and not bench.accuracy(end - time.monotonic()):
        return UNFINISHED
    if part == "accuracy":
        return 0
    finished = bench.latency(end - time.monotonic())
    if not bench.enough():
        return UNFINISHED
    out.mkdir(parents=True, exist_ok=True)
    path = bench.table().save(out)
    print(f"{path}: {path.stat().st_size:,} bytes", file=sys.stderr)
    return 0 if finished else UNFINISHED
