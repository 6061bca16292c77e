"""A run from Python: the common part of `nc_strategies.tune` and `nc_strategies.quantization.fit`."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from nc_strategies.app import isolated, status
from nc_strategies.app.goals import state_goals
from nc_strategies.app.logs import RunLog, redact_error, register_secret
from nc_strategies.app.run import execute
from nc_strategies.app.settings import SECTIONS, section
from nc_strategies.app.studies import Study
from nc_strategies.app.target import remote, without_output
from nc_strategies.app.usual_backend import usual_backend
from nc_strategies.backends.base import Backend
from nc_strategies.config import AUTO, LABELLED, OUTPUT, UNLABELLED, MetricsConfig, RunConfig
from nc_strategies.data.dataset import Raw
from nc_strategies.data.objects import head, samples
from nc_strategies.data.settings import CALIBRATION_SAMPLES, InputRules, InputSettings, Preprocess
from nc_strategies.errors import EngineError, InputError, NcsError
from nc_strategies.measuring.local_target import LocalTarget, TargetParts
from nc_strategies.metrics.base import Metric
from nc_strategies.metrics.objects import NAME, UserEvaluation, UserMetric
from nc_strategies.models.objects import model_source
from nc_strategies.registry import Registry, registry
from nc_strategies.runtime.secrets import split
from nc_strategies.study.folder import RunFolder
from nc_strategies.study.setup import Setup

log = logging.getLogger(__name__)
OPTIONS = ("tuning", "measure", "space")
"""Sections of the configuration whose keys are options of a call."""


@dataclass
class Request:
    """Arguments of a run from Python; see `nc_strategies.tune`."""

    model: Any
    data: Any = None
    strategy: Any = "auto"
    backend: Any = None
    metric: Any = None
    higher_is_better: bool | None = None
    objectives: str | Sequence[str] = "latency"
    weights: Sequence[float] | None = None
    calibration: Any = None
    calibration_samples: int = CALIBRATION_SAMPLES
    preprocess: Any = None
    eval_func: Callable[[Any], Any] | None = None
    executor: Any = "serial"
    run_dir: str | Path | None = None
    isolation: str = "none"
    name: str = ""
    output: str | Sequence[str] | None = None
    allow_poor_baseline: bool = False
    inputs: InputSettings = dataclasses.field(default_factory=InputSettings)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def run(request: Request) -> tuple[Study, Backend | None]:
    """Run a request.

    Returns:
        The study, and the loaded backend that measured it; None where the backend was in another process.

    Raises:
        InputError: an argument is not valid; no file is left behind.
        EngineError: the engine could not measure anything.
    """
    run_log = RunLog()
    with _without_secrets(), tempfile.TemporaryDirectory(prefix="ncs-model-") as scratch:
        try:
            return _run(request, run_log, Path(scratch))
        except NcsError:
            raise
        except Exception:
            log.exception("the run failed")
            raise
        finally:
            run_log.close()


@contextmanager
def _without_secrets() -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        redact_error(error)
        raise


def _run(request: Request, run_log: RunLog, scratch: Path) -> tuple[Study, Backend | None]:
    found = registry()
    for name, why in found.broken.items():
        log.warning("plugin %s is left out (%s)", name, why)
    plain, secrets = split(_component("strategy", request.strategy))
    for secret in secrets.values():
        register_secret(secret)
    strategy = _strategy(found, plain, secrets)
    make = found.target(found.get("strategy", plain["name"]))
    sections = _sections(request.options)
    executor = _component("executor", request.executor)
    isolated.check(request.isolation, request.options, request.metric, request.eval_func, executor["name"])
    source = model_source(request.model, scratch, request.name)
    backend_config = _component("backend", request.backend or usual_backend(source.files))
    evaluation, calibration = _samples(request)
    metric, accuracy = _metric(found, request, evaluation.labels is not None)
    config = RunConfig(
        strategy=plain,
        backend=backend_config,
        metrics=_metrics(request, accuracy),
        model={"name": next(iter(source.files)), "path": _place(request.model)},
        data={"name": _described(request)},
        executor=executor,
        isolation=request.isolation,
        **sections,
    )
    config.validate()
    state_goals(config)
    make.check(strategy)
    folder = RunFolder(_run_dir(request.run_dir))
    preprocess, backend = _preprocess(request.preprocess), None
    rules = InputRules.of(request.inputs)
    if config.isolation == "process":
        found.settings("backend", backend_config)
        target = isolated.start(config, source, evaluation, calibration, preprocess, scratch, rules)
    else:
        backend = found.create("backend", backend_config, config.measure.threads)
        machine = remote(config, backend)
        parts = TargetParts(backend, source, evaluation, calibration, preprocess, metric, rules=rules, remote=machine)
        target = LocalTarget(parts, replace(config, metrics=config.metrics.choose(evaluation.labels is not None)))
    try:
        setup = Setup(
            config,
            target,
            lambda problem: make(strategy, problem),
            found.create("executor", config.executor),
            _plain(config),
            partial(make.check_model, strategy),
        )
        result = execute(found, setup, folder, run_log)
    finally:
        target.close()
    if result["status"] == "failed":
        raise _failure(result, folder.path)
    return Study(folder.path), backend


def _metrics(request: Request, accuracy: dict[str, Any]) -> MetricsConfig:
    """The section ``metrics``.

    Args:
        request: The request.
        accuracy: Name and settings of the first constraint's metric.
    """
    objectives = [request.objectives] if isinstance(request.objectives, str) else list(request.objectives)
    return MetricsConfig(
        "_".join(["accuracy", *objectives]),
        accuracy,
        objectives,
        None if request.weights is None else list(request.weights),
        allow_poor_baseline=bool(request.allow_poor_baseline),
    )


def _failure(result: Mapping[str, Any], folder: Path) -> NcsError:
    """The error of a run that left no model."""
    problem = result.get("error") or f"no configuration could be measured: {result['stop_reason']}"
    if status.of_result(result) == status.INPUT:
        return InputError("tuning.timeout", problem.removeprefix("tuning.timeout: "))
    return EngineError(f"{problem} (see {folder})")


def _component(kind: str, given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        return {"name": given}
    if isinstance(given, Mapping) and isinstance(given.get("name"), str):
        return {str(key): value for key, value in given.items()}
    raise InputError(kind, f"is of type {type(given).__name__}", "a name, or a mapping of a name and settings")


def _strategy(found: Registry, plain: Mapping[str, Any], secrets: Mapping[str, str]) -> Any:
    """The strategy's settings. Secrets are set after the checks that refuse them in files and on the command line."""
    settings = found.settings("strategy", plain)
    known = {field.name for field in dataclasses.fields(settings)} if settings is not None else set()
    for name, value in secrets.items():
        if name not in known:
            raise InputError(
                f"strategy.{name}",
                f"is not a setting of strategy {plain['name']!r}",
                f"allowed: {', '.join(sorted(known))}",
            )
        setattr(settings, name, value)
    return settings


def _sections(options: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of the configuration from options, checked against the sections' types."""
    fields = {field.name: name for name in OPTIONS for field in dataclasses.fields(SECTIONS[name])}
    for name in options:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise InputError(name, "is not an option", f"{hint}allowed: {', '.join(sorted(fields))}")
    made: dict[str, Any] = {}
    for name in OPTIONS:
        made[name] = section(name, {key: value for key, value in options.items() if fields[key] == name})
    return made


def _metric(found: Registry, request: Request, labelled: bool) -> tuple[Metric, dict[str, Any]]:
    """The metric, and its entry in the configuration."""
    direction = request.higher_is_better
    output = request.output
    named = {} if output is None else {OUTPUT: output if isinstance(output, str) else list(output)}
    if request.eval_func is not None:
        if not callable(request.eval_func):
            raise InputError(NAME, f"is of type {type(request.eval_func).__name__}", "a function of the model")
        if named:
            raise InputError(OUTPUT, f"is {request.output!r}, but {NAME} takes the model", "one of the two")
        function = {"name": NAME, "function": _qualified(request.eval_func), "higher_is_better": direction}
        return UserEvaluation(request.eval_func, direction is not False), function
    given = request.metric
    if given is None:
        made = found.create("metric", {"name": LABELLED if labelled else UNLABELLED}, key="metric")
        return made, {"name": AUTO, "higher_is_better": direction, **named}
    if isinstance(given, (str, Mapping)):
        settings = _component("metric", given)
        made = found.create("metric", without_output(settings), key="metric")
        return made, {**settings, "higher_is_better": direction, **named}
    metric = given if isinstance(given, Metric) else UserMetric(given, direction is not False)
    return metric, {"name": _qualified(given).rpartition(".")[2], "higher_is_better": direction, **named}


def _qualified(given: Any) -> str:
    kind = given if hasattr(given, "__qualname__") else type(given)
    return f"{kind.__module__}.{kind.__qualname__}"


def _samples(request: Request) -> tuple[Raw, Raw]:
    count = request.calibration_samples
    if not isinstance(count, int) or count < 1:
        raise InputError("calibration_samples", f"is {count!r}", "at least 1")
    if request.calibration is not None:
        calibration = samples("calibration", request.calibration, count)
        if request.data is None or request.eval_func is not None:
            if request.eval_func is None:
                raise InputError("data", "is missing", "labelled samples to evaluate with, or eval_func")
            return calibration, calibration
        return samples("data", request.data), calibration
    if request.data is None:
        raise InputError("calibration", "is missing", "samples to calibrate with, at least 1")
    return head(samples("data", request.data), count)


def _preprocess(given: Any) -> Preprocess:
    if given is None or isinstance(given, Preprocess):
        return given or Preprocess()
    names = [field.name for field in dataclasses.fields(Preprocess)]
    if not isinstance(given, Mapping) or set(given) - set(names):
        raise InputError("preprocess", f"is {given!r}", f"a mapping of any of {', '.join(names)}")
    return Preprocess(**given)


def _run_dir(given: str | Path | None) -> Path:
    if given is not None:
        return Path(given).expanduser().absolute()
    first = Path(datetime.now().strftime("outputs/%Y-%m-%d/%H-%M-%S")).absolute()
    path, number = first, 1
    while path.exists():
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path


def _place(model: Any) -> str | None:
    return str(model) if isinstance(model, (str, Path)) else None


def _described(request: Request) -> str:
    given = request.calibration if request.data is None else request.data
    return Path(given).name if isinstance(given, (str, Path)) else type(given).__name__


def _plain(config: RunConfig) -> dict[str, Any]:
    """The configuration for ``config.yaml``, which holds no secret."""
    return {
        **{name: getattr(config, name) for name in ("strategy", "backend", "model", "data", "executor")},
        **{name: asdict(getattr(config, name)) for name in ("metrics", "tuning", "space", "measure")},
    }
