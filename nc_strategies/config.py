"""The configuration of a run as dataclasses: the schema of the command line's keys and of Python callers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from nc_strategies.compat.neural_compressor import (
    AccuracyCriterion,
    PostTrainingQuantConfig,
    TuningCriterion,
    read_yaml,
)
from nc_strategies.defaults import CRITERION, MAX_TRIALS, TOLERABLE_LOSS
from nc_strategies.errors import InputError, first_line
from nc_strategies.runtime.ssh import Address

__all__ = [
    "AccuracyCriterion",
    "MeasureConfig",
    "MetricsConfig",
    "PostTrainingQuantConfig",
    "RunConfig",
    "SpaceConfig",
    "TuningConfig",
    "TuningCriterion",
    "read_yaml",
]
CRITERIA = ("relative", "absolute")
STOP_WHEN = ("budget", "met")
ISOLATION = ("process", "none")
ACCURACY_ON = ("host", "target")
OBJECTIVES = ("latency", "throughput", "size", "memory")
NAME, FIDELITY = "name", "fidelity"
ACCURACY = "accuracy"
"""Name of the first constraint's value, whatever its metric."""
GOAL_KEYS = ("tolerable_loss", "criterion")
"""Keys of a further constraint that are not settings of its metric."""
AUTO = "auto"
"""Name of the metric that stands for `LABELLED` where the data has labels, otherwise for `UNLABELLED`."""
LABELLED, UNLABELLED = "top1", "cosine"
OUTPUT = "output"
"""Key beside the settings of every metric: name of the model's output that the metric reads."""
MIN_LATENCY_RUNS = 20
"""Least number of timed runs: the confidence interval needs several blocks of runs."""

MIN_FRONT_POINTS = 3
"""Least number of points of a measured front. Two of them are fp32 and the chosen model, which any run measures."""


@dataclass
class TuningConfig:
    """The tolerable loss, and the limits of the run.

    Args:
        criterion: ``relative`` (a fraction of fp32's value) or ``absolute`` (in the metric's unit). None for the
            metric's default: ``relative``, but ``absolute`` for a metric whose fp32 value is 0 or a cap.
        tolerable_loss: Loss that is accepted; a negative one requires a gain (``absolute`` only). None for the metric's
            default: 0.01, except for a metric whose fp32 value is 0 or a cap.
        max_trials: Greatest number of configurations to measure; 0 for no limit.
        timeout: Seconds of the whole run, from loading the model to the saved one; 0 for no limit. A trial or an
            estimate starts where it is expected to leave time for the end, one that takes longer is dropped, and the
            end measures as much again as there is time for. A run whose time is too short for fp32, one trial and the
            end is refused once fp32 was measured.
        stop_when: ``budget``: go on looking for a faster model; ``met``: stop at the first that meets the goal, in its
            trial and when it is measured again as at the end of a run.
        max_consecutive_failures: Number of consecutive failed trials after which the run stops; 0 for no limit.
        early_stop: Whether to stop evaluating a configuration as soon as the goal is out of its reach.
        trial_timeout: Seconds after which a trial's process is ended and the trial fails; 0 for no limit, None for one
            minute plus twenty times the time of measuring fp32.
        stage_timeout: Time limit in seconds of each stage (loading, calibrating, measuring fp32); 0 for no limit.
        memory_limit: Memory limit of the engine's process in megabytes; 0 for no limit.
        seed: Seed of all random numbers.
        front: Number of points of the measured Pareto front, fp32 and the chosen model included; 0 for none. The trials
            that fill its gaps come on top of `max_trials`, within `timeout`.
    """

    criterion: str | None = None
    tolerable_loss: float | None = None
    max_trials: int = MAX_TRIALS
    timeout: float = 0.0
    stop_when: str = "budget"
    max_consecutive_failures: int = 10
    early_stop: bool = True
    trial_timeout: float | None = None
    stage_timeout: float = 3600.0
    memory_limit: float = 0.0
    seed: int = 0
    front: int = 0

    @property
    def goal(self) -> tuple[str, float]:
        """Criterion and tolerable loss; the defaults of most metrics for what is not set."""
        criterion = CRITERION if self.criterion is None else self.criterion
        return criterion, TOLERABLE_LOSS if self.tolerable_loss is None else self.tolerable_loss

    def validate(self) -> None:
        """Check the values.

        Raises:
            InputError: a value is not allowed.
        """
        criterion, loss = self.goal
        _one_of("tuning.criterion", criterion, CRITERIA)
        _one_of("tuning.stop_when", self.stop_when, STOP_WHEN)
        _at_least("tuning.max_trials", self.max_trials, 0)
        _at_least("tuning.timeout", self.timeout, 0)
        _at_least("tuning.max_consecutive_failures", self.max_consecutive_failures, 0)
        if self.trial_timeout is not None:
            _at_least("tuning.trial_timeout", self.trial_timeout, 0)
        _at_least("tuning.stage_timeout", self.stage_timeout, 0)
        _at_least("tuning.memory_limit", self.memory_limit, 0)
        _at_least("tuning.seed", self.seed, 0)
        if self.front != 0 and self.front < MIN_FRONT_POINTS:
            raise InputError(
                "tuning.front",
                f"is {self.front}",
                f"0 for no front, or at least {MIN_FRONT_POINTS}: fp32, the chosen model and one more",
            )
        _tolerance("tuning", criterion, loss)
        if self.max_trials == 0 and self.timeout == 0:
            raise InputError(
                "tuning.max_trials", "and tuning.timeout are both 0: the run would have no end", "set one of them"
            )


@dataclass
class MeasureConfig:
    """Settings of the measurement of latency and accuracy.

    Args:
        threads: Threads of the engine per run.
        batch_size: Samples per timed run.
        latency_runs: Timed runs of a trial, interleaved with as many runs of fp32.
        final_runs: Timed runs of a finalist.
        latency_timeout: Seconds after which the timing of a trial stops, after at least 20 runs; finalists have three
            times as long.
        evaluation_batch_size: Samples per run when accuracy is evaluated.
        lengths: Lengths of the samples that latency is measured at, with equal weights; None for the quantiles 0.1, 0.5
            and 0.9 of the lengths in the data, with weights 0.3, 0.4 and 0.3.
        context_lengths: Context lengths at which a decoder's time per token is measured, of reading a prompt of that
            length (prefill) and of writing one token after as many (decode), with equal weights; None for the time of
            reading samples.
        target: Python interpreter on the machine that the model is for, ``ssh://user@host[:port]/path/to/python``;
            latency, memory and the int8 ceiling are measured there. None for this machine.
        accuracy_on: Where accuracy is evaluated if `target` is given: ``host`` (this machine) or ``target``.
        ssh_config: Configuration file of the OpenSSH client for `target`; None for the user's own.
        reconnect_seconds: Seconds in which a lost connection to `target` is made again, with growing pauses, before the
            run stops; the same command then goes on with it.
        lock: Whether timings wait for those of other runs on the machine that times.
    """

    threads: int = 1
    batch_size: int = 1
    latency_runs: int = 100
    final_runs: int = 300
    latency_timeout: float = 20.0
    evaluation_batch_size: int = 100
    lengths: list[int] | None = None
    context_lengths: list[int] | None = None
    target: str | None = None
    accuracy_on: str = "host"
    ssh_config: str | None = None
    reconnect_seconds: float = 90.0
    lock: bool = True

    def validate(self) -> None:
        """Check the values.

        Raises:
            InputError: a value is not allowed.
        """
        for name in ("threads", "batch_size", "evaluation_batch_size"):
            _at_least(f"measure.{name}", getattr(self, name), 1)
        for name in ("latency_runs", "final_runs"):
            _at_least(f"measure.{name}", getattr(self, name), MIN_LATENCY_RUNS)
        _at_least("measure.latency_timeout", self.latency_timeout, 0)
        for name in ("lengths", "context_lengths"):
            if getattr(self, name) is not None:
                given = list(getattr(self, name))
                if not given or len(set(given)) != len(given) or min(given) < 1:
                    raise InputError(f"measure.{name}", f"is {given}", "positive whole numbers, each once")
        if self.lengths is not None and self.context_lengths is not None:
            raise InputError("measure.context_lengths", "and measure.lengths are both given", "one of them")
        self._validate_target()

    def _validate_target(self) -> None:
        _at_least("measure.reconnect_seconds", self.reconnect_seconds, 0)
        _one_of("measure.accuracy_on", self.accuracy_on, ACCURACY_ON)
        if self.target is not None:
            Address.parse(self.target)
        elif self.accuracy_on != ACCURACY_ON[0]:
            raise InputError("measure.accuracy_on", f"is {self.accuracy_on} without a target", "set measure.target")
        if self.ssh_config is not None and not Path(self.ssh_config).expanduser().is_file():
            raise InputError("measure.ssh_config", f"no such file: {self.ssh_config}")


@dataclass
class SpaceConfig:
    """The user's quantization overrides; see `nc_strategies.space.Overrides`.

    The dictionaries are mappings, or strings that hold a mapping in YAML or JSON. The command line passes strings,
    because its own grammar has no quoted keys.
    """

    op_type_dict: Any = None
    op_name_dict: Any = None
    excluded_precisions: list[str] = field(default_factory=list)

    def validate(self) -> None:
        """Check the values, and parse strings into mappings.

        Raises:
            InputError: a value is not allowed.
        """
        self.op_type_dict = _mapping("space.op_type_dict", self.op_type_dict)
        self.op_name_dict = _mapping("space.op_name_dict", self.op_name_dict)


@dataclass(frozen=True)
class FurtherConstraint:
    """A constraint after the first.

    Args:
        name: Name of its value: the metric's name, with a number if the metric occurs more than once.
        metric: The metric's name and settings.
        criterion: As `TuningConfig.criterion`, which is used if this is None.
        tolerable_loss: As `TuningConfig.tolerable_loss`, which is used if this is None.
    """

    name: str
    metric: dict[str, Any]
    criterion: str | None = None
    tolerable_loss: float | None = None


@dataclass
class MetricsConfig:
    """A set of metrics: constraints and objectives.

    Args:
        name: The set's name.
        accuracy: Name and settings of the constraint's metric; its tolerable loss is that of ``tuning``. The name
            ``auto`` stands for ``top1`` where the data has labels, otherwise for ``cosine``.
        objectives: Any of ``latency``, ``throughput``, ``size``, ``memory``.
        weights: Weight of each objective; equal weights if None.
        constraints: Further constraints: each a metric's name and settings, optionally with its own ``tolerable_loss``
            and ``criterion``; by default those of ``tuning``.
        allow_poor_baseline: Whether to tune a model whose metric in fp32 is 0, or no better than a trivial answer's.
    """

    name: str = "accuracy_latency"
    accuracy: dict[str, Any] = field(default_factory=lambda: {"name": AUTO, "higher_is_better": None})
    objectives: list[str] = field(default_factory=lambda: ["latency"])
    weights: list[float] | None = None
    constraints: list[Any] = field(default_factory=list)
    allow_poor_baseline: bool = False

    def validate(self) -> None:
        """Check the values.

        Raises:
            InputError: a value is not allowed.
        """
        if not self.objectives:
            raise InputError("metrics.objectives", "is empty", f"allowed: {', '.join(OBJECTIVES)}")
        for objective in self.objectives:
            _one_of("metrics.objectives", objective, OBJECTIVES)
        if len(set(self.objectives)) != len(self.objectives):
            raise InputError("metrics.objectives", f"is {list(self.objectives)}", "each once")
        if self.weights is not None and (len(self.weights) != len(self.objectives) or min(self.weights) <= 0):
            raise InputError("metrics.weights", f"is {list(self.weights)}", "one positive number per objective")
        if not self.accuracy.get("name"):
            raise InputError("metrics.accuracy.name", "is missing", "the name of a registered metric")
        for place, further in enumerate(self.further()):
            key = f"metrics.constraints[{place}]"
            if further.criterion is not None:
                _one_of(f"{key}.criterion", further.criterion, CRITERIA)
            if further.tolerable_loss is not None and not isinstance(further.tolerable_loss, int | float):
                raise InputError(f"{key}.tolerable_loss", f"is {further.tolerable_loss!r}", "a number")
        self.named_outputs()

    def choose(self, labelled: bool) -> MetricsConfig:
        """The same with the metric that ``auto`` stands for.

        Args:
            labelled: Whether the evaluation data has labels.
        """
        if self.accuracy["name"] != AUTO:
            return self
        accuracy = {**self.accuracy, NAME: LABELLED if labelled else UNLABELLED}
        name = self.name if labelled else self.name.replace(ACCURACY, FIDELITY).removesuffix("_latency")
        return replace(self, name=name, accuracy=accuracy)

    def named_outputs(self) -> dict[str, str | tuple[str, ...]]:
        """Name of the output that each metric reads, by the name of the constraint's value; only those that are given.

        Several names, for a metric that reads several outputs, are a tuple.

        Raises:
            InputError: one is not a name.
        """
        keys = {ACCURACY: ("metrics.accuracy", self.accuracy)}
        keys |= {f.name: (f"metrics.constraints[{place}]", f.metric) for place, f in enumerate(self.further())}
        named: dict[str, str | tuple[str, ...]] = {}
        for name, (key, metric) in keys.items():
            given = metric.get(OUTPUT)
            if given is None:
                continue
            several = list(given) if isinstance(given, (list, tuple)) else [given]
            if not several or any(isinstance(n, bool) or not isinstance(n, str | int) or n == "" for n in several):
                raise InputError(f"{key}.{OUTPUT}", f"is {given!r}", "the name of one of the model's outputs")
            named[name] = str(given) if several == [given] else tuple(map(str, several))
        return named

    def further(self) -> list[FurtherConstraint]:
        """The constraints after the first.

        Raises:
            InputError: one is not a mapping with a name.
        """
        constraints: list[FurtherConstraint] = []
        taken = {ACCURACY}
        for place, given in enumerate(self.constraints):
            if not isinstance(given, dict) or not given.get("name"):
                raise InputError(
                    f"metrics.constraints[{place}]",
                    f"is {given!r}",
                    "expected a metric's name and settings, such as {name: f1, tolerable_loss: 0.02}",
                )
            name = metric = str(given["name"])
            number = 1
            while name in taken:
                number += 1
                name = f"{metric}_{number}"
            taken.add(name)
            settings = {key: value for key, value in given.items() if key not in GOAL_KEYS}
            constraints.append(FurtherConstraint(name, settings, given.get("criterion"), given.get("tolerable_loss")))
        return constraints


@dataclass
class RunConfig:
    """The configuration of a run, with one field per configuration group or section.

    A group holds a component's name and its settings, which are checked against the schema that the component is
    registered with. `isolation` is ``process`` (the engine runs in a child process) or ``none`` (it runs in this
    process, for debugging). With `plan`, the run only reports what it would do and how long it would take.
    """

    strategy: Any = "???"
    backend: Any = "???"
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    model: Any = "???"
    data: Any = "???"
    executor: Any = "???"
    tracker: Any = field(default_factory=lambda: {"name": "none"})
    tuning: TuningConfig = field(default_factory=TuningConfig)
    space: SpaceConfig = field(default_factory=SpaceConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    isolation: str = "none"
    run_dir: str | None = None
    plan: bool = False

    def validate(self) -> None:
        """Check all sections.

        Raises:
            InputError: a value is not allowed.
        """
        _one_of("isolation", self.isolation, ISOLATION)
        self.tuning.validate()
        self.measure.validate()
        self.metrics.validate()
        for place, further in enumerate(self.metrics.further()):
            criterion, loss = self.tuning.goal
            loss = loss if further.tolerable_loss is None else further.tolerable_loss
            _tolerance(f"metrics.constraints[{place}]", further.criterion or criterion, loss)
        self.space.validate()


def _tolerance(key: str, criterion: str, loss: float) -> None:
    if criterion == "relative" and not 0 <= loss < 1:
        raise InputError(
            f"{key}.tolerable_loss",
            f"is {loss} with {key}.criterion=relative",
            f"from 0 to below 1; to ask for a gain use {key}.criterion=absolute",
        )
    if not -1e12 < loss < 1e12:
        raise InputError(f"{key}.tolerable_loss", f"is {loss}", "a finite number")


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(key, f"cannot be read ({first_line(error)})", "a mapping in YAML or JSON") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(key, f"is {value!r}", "expected a mapping, such as {Conv: {weight: {dtype: [fp32]}}}")
    return value


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(key, f"is {value!r}", f"allowed: {', '.join(allowed)}")


def _at_least(key: str, value: float, least: float) -> None:
    if not value >= least:
        raise InputError(key, f"is {value}", f"at least {least}")
