"""`nc_strategies.tune`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nc_strategies.app.python import Request, run
from nc_strategies.app.studies import Study
from nc_strategies.data.settings import CALIBRATION_SAMPLES, Preprocess
from nc_strategies.defaults import MAX_TRIALS, TOLERABLE_LOSS


def tune(
    model: Any,
    data: Any = None,
    *,
    strategy: str | Mapping[str, Any] = "basic",
    backend: str | Mapping[str, Any] | None = None,
    metric: Any = "top1",
    higher_is_better: bool | None = None,
    objectives: str | Sequence[str] = "latency",
    weights: Sequence[float] | None = None,
    criterion: str = "relative",
    tolerable_loss: float = TOLERABLE_LOSS,
    max_trials: int = MAX_TRIALS,
    timeout: float = 0.0,
    calibration: Any = None,
    calibration_samples: int = CALIBRATION_SAMPLES,
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    eval_func: Callable[[Any], float] | None = None,
    executor: str | Mapping[str, Any] = "serial",
    run_dir: str | Path | None = None,
    isolation: str = "none",
    **options: Any,
) -> Study:
    """Tune a trained model to int8, as the command line does, from Python.

    Args:
        model: A path (``.onnx``, ``.keras``, ``.h5``, frozen ``.pb``, a SavedModel folder), an ``onnx.ModelProto``, a
            Keras model, a ``GraphDef`` or a loaded SavedModel.
        data: Labelled samples: (x, y) arrays, the path of an ``.npz``, or an iterable of batches (x, y), such as a
            ``tf.data.Dataset`` or a torch ``DataLoader``. Not needed with `eval_func` and `calibration`.
        strategy: A name, or a mapping of a name and the strategy's settings.
        backend: A name, or a mapping of a name and settings; when left out, ONNX Runtime for an ONNX model, TensorFlow
            for any other.
        metric: A name, a mapping of a name and settings, a `Metric`, or an object with ``reset``, ``update`` and
            ``result``.
        higher_is_better: Overrules the metric's own direction.
        objectives: ``latency``, ``throughput``, ``size``, or several.
        weights: Share of each objective.
        criterion: ``relative`` or ``absolute``.
        tolerable_loss: Loss of the metric that is accepted.
        max_trials: Configurations to measure at most, 0 for no limit.
        timeout: Seconds of the whole run, 0 for no limit; see `TuningConfig`.
        calibration: Samples to calibrate with, in any form of `data`, labels not needed; when left out, the head of
            `data`, which is then not evaluated with.
        calibration_samples: How many.
        preprocess: How samples become what the model takes: any of scale, offset, mean, std, resize, layout.
        eval_func: Takes a model (an ``onnx.ModelProto``; for TensorFlow a loaded SavedModel that can be called) and
            returns its accuracy; replaces `metric` and the evaluation on `data`.
        executor: Where trials run.
        run_dir: Where the run leaves its files, ``outputs/<date>/<time>`` when left out; the same again resumes.
        isolation: ``none``: the engine runs in the caller's process. ``process``: in one of its own, where one that
            crashes or hangs costs a trial, and `trial_timeout`, `stage_timeout` and `memory_limit` hold; model and
            samples are written to files for it, and an `eval_func` or a metric object cannot be used.
        **options: Any key of the sections ``tuning``, ``space`` and ``measure`` of the configuration.

    Returns:
        The study. An interrupt ends it early, with the best so far.

    Raises:
        InputError: something that was given does not fit; the message names it.
        EngineError: the engine could not measure anything.
    """
    everything = {
        "criterion": criterion,
        "tolerable_loss": tolerable_loss,
        "max_trials": max_trials,
        "timeout": timeout,
        **options,
    }
    study, _ = run(
        Request(
            model,
            data,
            strategy,
            backend,
            metric,
            higher_is_better,
            objectives,
            weights,
            calibration,
            calibration_samples,
            preprocess,
            eval_func,
            executor,
            run_dir,
            isolation,
            options=everything,
        )
    )
    return study
