"""The target of a run from Python in a separate process, which gets the caller's in-memory objects as files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from nc_strategies.app.target import metric_settings, remote, sharing, without_secrets
from nc_strategies.config import RunConfig
from nc_strategies.data.dataset import Raw
from nc_strategies.data.ragged import Ragged, Samples
from nc_strategies.data.settings import InputRules, Preprocess
from nc_strategies.errors import InputError
from nc_strategies.measuring.local_target import LocalTarget, TargetParts
from nc_strategies.measuring.target import MeasurementTarget
from nc_strategies.measuring.worker.target import WorkerTarget
from nc_strategies.models import ModelSource
from nc_strategies.registry import registry

TARGET = f"{__name__}:build"
NEED_PROCESS = ("trial_timeout", "stage_timeout", "memory_limit")
"""Limits that can be enforced only where the engine can be ended without ending the run."""


@dataclass(frozen=True)
class StoredSamples:
    """Samples on disk.

    Args:
        key: See `Raw`.
        inputs: File by input name.
        labels: File of the labels; None without labels.
        shared: File by the name of an input whose value all samples have in common.
    """

    key: str
    inputs: Mapping[str, Path]
    labels: Path | None
    shared: Mapping[str, Path] = field(default_factory=dict)

    @staticmethod
    def write(raw: Raw, folder: Path) -> StoredSamples:
        """Write samples into a new folder."""
        folder.mkdir()

        def written(name: str, samples: Any) -> Path:
            path = folder / f"{name}.npy"
            if isinstance(samples, Ragged):
                packed = samples.packed()
                np.save(_shapes_of(path), packed.shapes)
                samples = packed.values
            np.save(path, samples)
            return path

        inputs = {name: written(f"input_{number}", array) for number, (name, array) in enumerate(raw.inputs.items())}
        shared = {name: written(f"shared_{number}", array) for number, (name, array) in enumerate(raw.shared.items())}
        labels = None if raw.labels is None else written("labels", raw.labels)
        return StoredSamples(raw.key, inputs, labels, shared)

    def read(self) -> Raw:
        """Read the samples as memory-mapped arrays."""
        return Raw(
            self.key,
            {name: _mapped(path) for name, path in self.inputs.items()},
            None if self.labels is None else _mapped(self.labels),
            {name: np.load(path) for name, path in self.shared.items()},
        )


def _shapes_of(path: Path) -> Path:
    """File of the shapes of ragged samples, beside their values."""
    return path.with_suffix(".shapes.npy")


def _mapped(path: Path) -> Samples:
    values = np.load(path, mmap_mode="r")
    shapes = _shapes_of(path)
    return Ragged(values, np.load(shapes)) if shapes.is_file() else values


@dataclass(frozen=True)
class Sent:
    """Parts from which a worker builds the target.

    Args:
        config: The whole configuration, without the strategy's settings, which may hold secrets.
        model: The model's files.
        evaluation: Samples for evaluation.
        calibration: Samples for calibration.
        preprocess: Preprocessing from samples to model inputs.
        rules: What the caller states about the model's inputs.
    """

    config: RunConfig
    model: ModelSource
    evaluation: StoredSamples
    calibration: StoredSamples
    preprocess: Preprocess
    rules: InputRules = field(default_factory=InputRules)


def start(
    config: RunConfig,
    model: ModelSource,
    evaluation: Raw,
    calibration: Raw,
    preprocess: Preprocess,
    scratch: Path,
    rules: InputRules,
) -> MeasurementTarget:
    """Start a worker with the target. The caller closes it.

    Args:
        config: The whole configuration.
        model: The model.
        evaluation: Samples for evaluation.
        calibration: Samples for calibration.
        preprocess: Preprocessing from samples to model inputs.
        scratch: Folder for files that are needed until the target is closed.
        rules: What the caller states about the model's inputs.
    """
    sent = Sent(
        without_secrets(config),
        model,
        StoredSamples.write(evaluation, scratch / "evaluation"),
        StoredSamples.write(calibration, scratch / "calibration"),
        preprocess,
        rules,
    )
    return WorkerTarget(TARGET, sent, config.tuning, config.measure.target is not None)


def build(sent: Sent) -> LocalTarget:
    """Build the target in the worker."""
    found, evaluation = registry(), sent.evaluation.read()
    config = replace(sent.config, metrics=sent.config.metrics.choose(evaluation.labels is not None))
    backend = found.create("backend", config.backend, config.measure.threads)
    metric = found.create("metric", metric_settings(config), key="metric")
    return LocalTarget(
        TargetParts(
            backend,
            sent.model,
            evaluation,
            sent.calibration.read(),
            sent.preprocess,
            metric,
            rules=sent.rules,
            remote=remote(config, backend),
        ),
        config,
        sharing(TARGET, sent, sent.config),
    )


def check(isolation: str, options: Mapping[str, Any], metric: Any, eval_func: Any, executor: str) -> None:
    """Check that the requested options are possible in the process where the engine runs.

    Args:
        isolation: ``process`` or ``none``.
        options: Options of the section ``tuning``.
        metric: The caller's metric: a name, a mapping or an object.
        eval_func: The caller's evaluation function; None without one.
        executor: Name of the executor.

    Raises:
        InputError: an option is not possible; the message names it.
    """
    if isolation != "process":
        for name in NEED_PROCESS:
            if options.get(name):
                raise InputError(
                    f"tuning.{name}",
                    f"is {options[name]!r}, which nothing can enforce where the engine runs in the caller's process",
                    "nc_strategies.tune(..., isolation='process'), or leave it out",
                )
        if executor != "serial":
            raise InputError(
                "executor",
                f"is {executor!r}, and other processes cannot get the objects of the caller's",
                "nc_strategies.tune(..., isolation='process'), or serial",
            )
        return
    if eval_func is not None:
        raise InputError(
            "eval_func",
            "is a function of this process, and with isolation='process' models are evaluated in another one",
            "isolation='none', or data and a metric's name",
        )
    if not isinstance(metric, (str, Mapping, NoneType)):
        raise InputError(
            "metric",
            f"is an object of this process ({type(metric).__name__}), and with "
            "isolation='process' models are evaluated in another one",
            "isolation='none', or the name of a registered metric",
        )
