"""How much faster than fp32 an engine's int8 operators can be on this machine.

A model consists of more than its fastest operator, so that no int8 model is faster than that operator alone is: it is
the ceiling of what tuning can reach. It is measured once, on one large convolution and one matrix product, and kept in
the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from nc_strategies.backends.base import Backend, Executable
from nc_strategies.errors import NcsError, first_line
from nc_strategies.models import ModelSource
from nc_strategies.models.info import Batch
from nc_strategies.runtime import cache, machine
from nc_strategies.runtime.turns import turn
from nc_strategies.space import Config, OpCapability, OpScheme, Space
from nc_strategies.space.scheme import FP32

log = logging.getLogger(__name__)
MEASUREMENT = 2
"""Version of what is measured and how, a part of the cache's key: count it up when either changes."""
INPUT = "x"
"""Name of the input of every model that is measured."""
MEASURING = "measuring"
"""Key of the cache's entry while a process measures; its value is the process's id."""


@dataclass(frozen=True)
class CeilingLimits:
    """What a measurement may take, and what it needs.

    Args:
        seconds: All of it, building the models included; with the step that is under way when they are over, a first
            run takes at most 3 s longer.
        build_share: Share of a case's time that goes into building further int8 forms than its first, at most; a form
            for which no time is left is not measured.
        warm_up_runs: Untimed runs of each model, in which engines allocate, pack weights and choose kernels.
        most_rounds: Timed rounds, each of which runs every model; the lower quartile of 40 is steady to about 3 %.
        least_rounds: Rounds below which a quartile says nothing.
    """

    seconds: float = 2.5
    build_share: float = 0.6
    warm_up_runs: int = 2
    most_rounds: int = 40
    least_rounds: int = 5
    most_disturbance: float = 1.6
    """Lower quartile over minimum of a model's runs above which other work on the machine decides the ratio. Set by
    hand; it was 1.01 to 1.11 on a quiet machine. Other work that prolongs every run alike is not noticed."""


@dataclass(frozen=True)
class Ceiling:
    """How much faster than fp32 an engine's int8 operators run on this machine.

    Args:
        ratios: Operator type to int8 form (see `form`) to fp32's latency over that form's, lower quartiles of each;
            2 is twice as fast.
            Empty when nothing could be measured.
        saturates: Sums of two 8-bit products overflow 16 bits in this processor's kernels, so that weights get 7 bits;
            None where that is unknown.
        threads: Threads that it was measured with.
        disturbed: Other work kept an operator from being measured, so that nothing is kept, and the next run tries
            again. Not part of `to_dict`.
    """

    ratios: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    saturates: bool | None = None
    threads: int = 1
    disturbed: bool = False

    @property
    def fastest(self) -> tuple[str, str, float] | None:
        """Operator type, form and ratio of the highest ratio; None when nothing could be measured."""
        found = [(kind, name, ratio) for kind, forms in self.ratios.items() for name, ratio in forms.items()]
        return max(found, key=lambda each: each[2], default=None)

    @property
    def best(self) -> float | None:
        """The highest ratio; None when nothing could be measured."""
        return self.fastest[2] if self.fastest else None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; the inverse of `from_dict`."""
        return {
            "ratios": {kind: dict(forms) for kind, forms in self.ratios.items()},
            "saturates": self.saturates,
            "threads": self.threads,
        }

    @staticmethod
    def from_dict(data: Any) -> Ceiling:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: the data is not of that form, or a ratio is not a positive number.
        """
        try:
            ratios = {
                str(kind): {str(name): float(ratio) for name, ratio in forms.items()}
                for kind, forms in data["ratios"].items()
            }
            saturates, threads = data["saturates"], int(data["threads"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a ceiling ({first_line(error)})") from None
        values = [ratio for forms in ratios.values() for ratio in forms.values()]
        if saturates not in (True, False, None) or not all(0 < ratio < math.inf for ratio in values):
            raise ValueError("not a ceiling: a value is out of range")
        return Ceiling(ratios, saturates, threads)


@dataclass(frozen=True)
class CeilingCase:
    """A model of one operator, large enough that converting its input and output costs little.

    Args:
        operator: The operator's type, in the engine's words.
        shape: Shape of its one input, which is named `INPUT`.
        write: Writes the fp32 model into a folder.
    """

    operator: str
    shape: tuple[int, ...]
    write: Callable[[Path], ModelSource]


def form(scheme: OpScheme) -> str:
    """The int8 form that a scheme leads to, calibration left out: ``uint8 asym, int8 per_channel``."""
    activation, weight = scheme.activation, scheme.weight
    text = f"{activation.dtype} {activation.scheme}"
    return f"{text}, {weight.dtype} {weight.granularity}" if weight is not None else text


def measure_ceiling(
    make: Callable[[], Backend],
    cases: Sequence[CeilingCase],
    saturates: bool | None,
    threads: int,
    limits: CeilingLimits | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Ceiling:
    """Time every int8 form that a backend offers for an operator against fp32.

    The models are built by the backend itself, and a form counts only when the engine says that it executed the
    operator in int8. What fails is logged and left out.

    Args:
        make: Makes a fresh backend for each case.
        cases: Operators to measure; several cases of one operator add up to its forms.
        saturates: See `Ceiling`.
        threads: See `Ceiling`.
        limits: What it may take.
        clock: Seconds that count.
    """
    with turn() if clock is time.perf_counter else nullcontext():
        timer = _Timer(limits or CeilingLimits(), clock)
        return Ceiling(_measured_ratios(make, cases, timer), saturates, threads, timer.disturbed)


def _measured_ratios(
    make: Callable[[], Backend], cases: Sequence[CeilingCase], timer: _Timer
) -> dict[str, dict[str, float]]:
    ratios: dict[str, dict[str, float]] = {}
    for position, case in enumerate(cases):
        if not timer.begin(len(cases) - position):
            log.info("no time is left to measure %s", case.operator)
            break
        try:
            with tempfile.TemporaryDirectory(prefix="ncs-ceiling-") as folder:
                found = _measure_case(make(), case, Path(folder), timer)
        except NcsError as error:
            log.warning("the int8 forms of %s could not be measured: %s", case.operator, first_line(error))
            continue
        if found:
            ratios.setdefault(case.operator, {}).update(found)
    return ratios


class _Timer:
    """The time that is left, for all cases and for the one under way."""

    def __init__(self, limits: CeilingLimits, clock: Callable[[], float]) -> None:
        self.limits, self.clock = limits, clock
        self.end = clock() + limits.seconds
        self.case_begin, self.case_end = 0.0, 0.0
        self.longest_build = 0.0
        self.disturbed = False

    def begin(self, cases: int) -> bool:
        """A case begins, one of a number that are left; whether there is time to build what the others needed."""
        self.case_begin = self.clock()
        left = self.end - self.case_begin
        self.case_end = self.case_begin + left / cases
        return left > self.longest_build

    def built(self) -> None:
        """The models of the case under way are built."""
        self.longest_build = max(self.longest_build, self.clock() - self.case_begin)

    def builds_more(self) -> bool:
        """Whether another form may be built."""
        return self.clock() < self.case_begin + self.limits.build_share * (self.case_end - self.case_begin)

    def goes_on(self, rounds: int, longest: float) -> bool:
        """Whether another round fits, after a number of them of which one took `longest` seconds."""
        return self.clock() + longest <= (self.end if rounds < self.limits.least_rounds else self.case_end)


def _measure_case(backend: Backend, case: CeilingCase, folder: Path, timer: _Timer) -> dict[str, float]:
    batch = {INPUT: np.random.default_rng(0).standard_normal(case.shape).astype(np.float32)}
    backend.load(case.write(folder))
    space = Space(backend.capabilities())
    operator = next((op for op in space.ops.values() if op.type == case.operator), None)
    if operator is None:
        return {}
    backend.calibrate([batch])
    with ExitStack() as stack:
        fp32 = _built(backend, space.all_float(), case, batch, stack)
        models = {FP32: fp32} if fp32 is not None else {}
        for position, (name, config) in enumerate(_forms(space, operator).items()):
            if position and not timer.builds_more():
                log.info("no time is left to measure %s as %s", case.operator, name)
                break
            built = _built(backend, config, case, batch, stack)
            if built is not None:
                models[name] = built
        timer.built()
        latencies = _lower_quartiles(models, batch, timer) if FP32 in models else {}
    return {name: latencies[FP32] / seconds for name, seconds in latencies.items() if name != FP32}


def _forms(space: Space, operator: OpCapability) -> dict[str, Config]:
    """A configuration for each int8 form; schemes that differ in their calibration only run the same kernel."""
    schemes: dict[str, OpScheme] = {}
    for scheme in operator.schemes:
        if scheme.is_static:
            schemes.setdefault(form(scheme), scheme)
    return {name: space.default().with_ops({operator.name: scheme}) for name, scheme in schemes.items()}


def _built(backend: Backend, config: Config, case: CeilingCase, batch: Batch, stack: ExitStack) -> Executable | None:
    """The model of a configuration, warmed up by one run; None when the engine executes something else."""
    wants_int8 = bool(config.int8_ops)
    model = backend.build(config)
    stack.callback(model.close)
    model.predict(batch)
    executed = model.executed()
    counts = (executed.int8, executed.fp32) if wants_int8 else (executed.fp32, executed.int8)
    if counts[0].get(case.operator, 0) and not counts[1].get(case.operator, 0):
        return model
    log.info(
        "%s is left out: asked for %s, the engine executed %s",
        case.operator,
        "int8" if wants_int8 else FP32,
        executed.by_type(),
    )
    return None


def _lower_quartiles(models: Mapping[str, Executable], batch: Batch, timer: _Timer) -> dict[str, float]:
    """Lower quartile of each model's seconds over interleaved rounds in random order; empty when there were too few.

    Other work on the machine prolongs the long fp32 runs more often than the short ones in int8: the lower quartile is
    disturbed less than the median.
    """
    rng, names, clock = np.random.default_rng(0), list(models), timer.clock
    for model in models.values():
        for _ in range(timer.limits.warm_up_runs):
            model.predict(batch)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    rounds, longest = 0, 0.0
    while rounds < timer.limits.most_rounds and timer.goes_on(rounds, longest):
        before = clock()
        for place in rng.permutation(len(names)):
            name = names[place]
            # Once untimed: the run before was another model's, and left the caches full of its weights.
            models[name].predict(batch)
            start = clock()
            models[name].predict(batch)
            seconds[name].append(clock() - start)
        rounds, longest = rounds + 1, max(longest, clock() - before)
    if rounds < timer.limits.least_rounds:
        log.info("only %d rounds fit into the time in which int8 is measured: too few", rounds)
        return {}
    quartiles = {name: float(np.quantile(values, 0.25)) for name, values in seconds.items()}
    disturbed = max((quartiles[name] / min(v) for name, v in seconds.items() if min(v) > 0), default=1.0)
    if disturbed > timer.limits.most_disturbance:
        timer.disturbed = True
        log.info("runs took up to %.1f times the shortest: the machine is too busy to measure int8", disturbed)
        return {}
    return quartiles


def cache_name(
    backend: str, engine: Sequence[str | int], threads: int, settings: Mapping[str, str] | None = None
) -> str:
    """The name under which a ceiling is kept: it changes with processor, engine, threads and this measurement.

    Args:
        backend: The backend's name.
        engine: What tells one version of the engine from another.
        threads: Threads for one run.
        settings: Environment variables that choose the engine's kernels.
    """
    facts = [machine.identity(), list(engine), threads, sorted((settings or {}).items()), MEASUREMENT]
    return f"ceiling-{backend}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.json"


def kept_or_measured(name: str, measure: Callable[[], Ceiling], again: bool = False) -> Ceiling | None:
    """The ceiling that the cache holds, or one that is measured now and kept.

    A process that dies while it measures leaves its id behind, so that the next run does not die in the same way.

    Args:
        name: See `cache_name`.
        measure: Measures it.
        again: Measure whatever the cache holds.

    Returns:
        None when an earlier measurement took its process down.
    """
    held = None if again else _held(cache.read(name))
    if isinstance(held, Ceiling):
        return held
    if held is not None and not psutil.pid_exists(held):
        log.warning(
            "int8 was not measured: the process that last tried died in it; nc-strategies machine --again "
            "tries once more"
        )
        return None
    cache.keep(name, json.dumps({MEASURING: os.getpid()}))
    try:
        found = measure()
    except BaseException:
        cache.keep(name, "")
        raise
    cache.keep(name, "" if found.disturbed else json.dumps(found.to_dict()))
    return found


def _held(text: str | None) -> Ceiling | int | None:
    """A ceiling; the id of the process that measures it; None for nothing, or nothing that makes sense."""
    try:
        data = json.loads(text or "")
        if isinstance(data, dict) and isinstance(data.get(MEASURING), int):
            return int(data[MEASURING])
        return Ceiling.from_dict(data)
    except ValueError:
        return None
