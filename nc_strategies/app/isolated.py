"""The target of a run from Python in a process of its own: what the caller holds in memory goes there as files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nc_strategies.app.target import metric_settings
from nc_strategies.config import RunConfig
from nc_strategies.data.dataset import Raw
from nc_strategies.data.settings import Preprocess
from nc_strategies.errors import InputError
from nc_strategies.measuring.target import LocalTarget, MeasurementTarget, TargetParts
from nc_strategies.measuring.worker.target import WorkerTarget
from nc_strategies.models import ModelSource
from nc_strategies.registry import registry

TARGET = f"{__name__}:build"
NEED_PROCESS = ("trial_timeout", "stage_timeout", "memory_limit")
"""Limits that only hold where the engine can be ended without the run."""


@dataclass(frozen=True)
class StoredSamples:
    """Samples on disk.

    Args:
        key: See `Raw`.
        inputs: File by input name.
        labels: The labels' file; None without any.
    """

    key: str
    inputs: Mapping[str, Path]
    labels: Path | None

    @staticmethod
    def write(raw: Raw, folder: Path) -> StoredSamples:
        """Write samples into a new folder."""
        folder.mkdir()

        def written(name: str, array: Any) -> Path:
            path = folder / f"{name}.npy"
            np.save(path, array)
            return path

        inputs = {name: written(f"input_{number}", array) for number, (name, array) in enumerate(raw.inputs.items())}
        return StoredSamples(raw.key, inputs, None if raw.labels is None else written("labels", raw.labels))

    def read(self) -> Raw:
        """The samples, mapped from disk."""
        return Raw(
            self.key,
            {name: np.load(path, mmap_mode="r") for name, path in self.inputs.items()},
            None if self.labels is None else np.load(self.labels, mmap_mode="r"),
        )


@dataclass(frozen=True)
class Sent:
    """What a worker makes the target of.

    Args:
        config: The whole configuration; its strategy's settings are left out, which may hold secrets.
        model: The model's files.
        evaluation: Samples to evaluate with.
        calibration: Samples to calibrate with.
        preprocess: How samples become what the model takes.
    """

    config: RunConfig
    model: ModelSource
    evaluation: StoredSamples
    calibration: StoredSamples
    preprocess: Preprocess


def start(
    config: RunConfig, model: ModelSource, evaluation: Raw, calibration: Raw, preprocess: Preprocess, scratch: Path
) -> MeasurementTarget:
    """The target, in a worker. Close it when done.

    Args:
        config: The whole configuration.
        model: The model.
        evaluation: Samples to evaluate with.
        calibration: Samples to calibrate with.
        preprocess: How samples become what the model takes.
        scratch: A folder for files that are needed until the target is closed.
    """
    told = replace(config, strategy={"name": config.strategy["name"]}, tracker={"name": "none"})
    sent = Sent(
        told,
        model,
        StoredSamples.write(evaluation, scratch / "evaluation"),
        StoredSamples.write(calibration, scratch / "calibration"),
        preprocess,
    )
    return WorkerTarget(TARGET, sent, config.tuning)


def build(sent: Sent) -> LocalTarget:
    """The target, in the worker."""
    found, config = registry(), sent.config
    backend = found.create("backend", config.backend, config.measure.threads)
    metric = found.create("metric", metric_settings(config), key="metric")
    return LocalTarget(
        TargetParts(backend, sent.model, sent.evaluation.read(), sent.calibration.read(), sent.preprocess, metric),
        config,
    )


def check(isolation: str, options: Mapping[str, Any], metric: Any, eval_func: Any) -> None:
    """See that what was asked for can be had where the engine runs.

    Args:
        isolation: ``process`` or ``none``.
        options: Options of the section ``tuning``.
        metric: What was given as the metric.
        eval_func: A function of the caller's.

    Raises:
        InputError: it cannot; the message names the option.
    """
    if isolation != "process":
        for name in NEED_PROCESS:
            if options.get(name):
                raise InputError(
                    f"tuning.{name}",
                    f"is {options[name]!r}, which nothing can enforce where the engine runs in the caller's process",
                    "nc_strategies.tune(..., isolation='process'), or leave it out",
                )
        return
    if eval_func is not None:
        raise InputError(
            "eval_func",
            "is a function of this process, and with isolation='process' models are evaluated in another one",
            "isolation='none', or data and a metric's name",
        )
    if not isinstance(metric, (str, Mapping)):
        raise InputError(
            "metric",
            f"is an object of this process ({type(metric).__name__}), and with "
            "isolation='process' models are evaluated in another one",
            "isolation='none', or the name of a registered metric",
        )
