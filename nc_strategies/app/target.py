"""The target of a configuration, in this process or in a worker process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from nc_strategies.backends.base import Backend
from nc_strategies.config import AUTO, OUTPUT, RunConfig
from nc_strategies.data.settings import InputRules
from nc_strategies.errors import InputError
from nc_strategies.measuring.local_target import LocalTarget, TargetParts
from nc_strategies.measuring.remote.connection import Target
from nc_strategies.measuring.remote.session import Engine, RemoteSession
from nc_strategies.measuring.shares import Origin, Sharing
from nc_strategies.measuring.target import MeasurementTarget
from nc_strategies.measuring.worker.target import WorkerTarget
from nc_strategies.metrics.base import Metric
from nc_strategies.registry import registry
from nc_strategies.registry.component import Component
from nc_strategies.runtime.ssh import Address
from nc_strategies.runtime.version import own_version

TARGET = f"{__name__}:build"


def build(settings: RunConfig) -> LocalTarget:
    """Build the target in this process.

    Raises:
        InputError: a component cannot be built from its settings.
    """
    found, asked = registry(), settings
    model = found.create("model", settings.model).load()
    data_settings = found.settings("data", settings.data)
    backend = found.create("backend", settings.backend, settings.measure.threads)
    further = tuple(_further(place, asked.metric) for place, asked in enumerate(settings.metrics.further()))
    auto = settings.metrics.accuracy["name"] == AUTO
    metric = None if auto else found.create("metric", metric_settings(settings), key="metrics.accuracy")
    loader = found.create("data", settings.data)
    if hasattr(loader, "beside"):  # a loader that reads files beside the model, such as a tokenizer
        loader.beside(model)
    evaluation, calibration = loader.load()
    settings = replace(settings, metrics=settings.metrics.choose(evaluation.labels is not None))
    if metric is None:
        metric = found.create("metric", metric_settings(settings), key="metrics.accuracy")
    return LocalTarget(
        TargetParts(
            backend,
            model,
            evaluation,
            calibration,
            data_settings.preprocess,
            metric,
            further,
            InputRules.of(data_settings),
            remote(settings, backend),
        ),
        settings,
        sharing(TARGET, asked, asked),
    )


def sharing(factory: str, given: Any, settings: RunConfig) -> Sharing | None:
    """The processes that evaluate a part of each trial's samples, as the executor has them; None for no others.

    Args:
        factory: ``module:function`` with which they make their target.
        given: Its argument, in which `settings` are the configuration.
        settings: The whole configuration.

    Raises:
        InputError: the executor cannot be built from its settings.
    """
    executor = registry().create("executor", settings.executor)
    make = getattr(executor, "evaluation_pool", None)
    pool = make(settings.measure.threads) if make is not None else None
    if pool is None:
        return None
    # They share no evaluation with others, and need no secrets.
    alone = replace(without_secrets(settings), executor={"name": "serial"})
    return Sharing(pool, Origin(factory, alone if given is settings else replace(given, config=alone)))


def start(settings: RunConfig) -> MeasurementTarget:
    """Build the target in the process that ``isolation`` names. The caller closes it.

    Raises:
        InputError: a component is unknown, or its settings are not valid.
    """
    if settings.isolation == "none":
        return build(settings)
    # Settings are checked here, so that a typing error does not start a process.
    found = registry()
    for kind in ("model", "data", "backend"):
        found.settings(kind, getattr(settings, kind))
    InputRules.of(found.settings("data", settings.data))
    if settings.metrics.accuracy["name"] != AUTO:
        found.settings("metric", metric_settings(settings), "metrics.accuracy")
    for place, asked in enumerate(settings.metrics.further()):
        found.settings("metric", without_output(asked.metric), f"metrics.constraints[{place}]")
    found.create("executor", settings.executor)
    return WorkerTarget(TARGET, without_secrets(settings), settings.tuning, settings.measure.target is not None)


def without_secrets(settings: RunConfig) -> RunConfig:
    """The configuration for another process, without the settings of strategy and tracker, which may hold secrets."""
    return replace(settings, strategy={"name": settings.strategy["name"]}, tracker={"name": "none"})


def remote(settings: RunConfig, backend: Backend) -> RemoteSession | None:
    """The use of the machine that ``measure.target`` names, not yet connected; None for this machine."""
    measure = settings.measure
    if measure.target is None:
        return None
    needed = requirements(registry().get("backend", settings.backend["name"]))
    machine = Target(Address.parse(measure.target), measure.ssh_config, needed)
    return RemoteSession(machine, Engine.of(backend), measure.lock, measure.reconnect_seconds)


def requirements(backend: Component) -> tuple[str, ...]:
    """What is installed on another machine so that it can use a backend."""
    if backend.extra.startswith("nc-strategies["):
        return (f"{backend.extra}=={own_version()}",)
    return (f"nc-strategies=={own_version()}", *([backend.extra] if backend.extra else []))


def metric_settings(settings: RunConfig) -> dict[str, Any]:
    """The metric's name and settings."""
    return without_output({key: value for key, value in settings.metrics.accuracy.items() if value is not None})


def without_output(metric: Mapping[str, Any]) -> dict[str, Any]:
    """A metric's name and settings without the name of the output that it reads, which every metric can have."""
    return {key: value for key, value in metric.items() if key != OUTPUT}


def _further(place: int, metric: dict[str, Any]) -> Metric:
    """The metric of a further constraint; its errors name the constraint's own key."""
    key = f"metrics.constraints[{place}]"
    try:
        return cast(Metric, registry().create("metric", without_output(metric), key=key))
    except InputError as error:
        raise InputError(error.key.replace("metrics.accuracy", key), error.problem, error.allowed) from error
