"""`nc_strategies.tune`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nc_strategies.app.python import Request, run
from nc_strategies.app.studies import Study
from nc_strategies.data.settings import CALIBRATION_SAMPLES, InputSettings, Preprocess
from nc_strategies.defaults import MAX_TRIALS


def tune(
    model: Any,
    data: Any = None,
    *,
    strategy: str | Mapping[str, Any] = "auto",
    backend: str | Mapping[str, Any] | None = None,
    metric: Any = None,
    higher_is_better: bool | None = None,
    objectives: str | Sequence[str] = "latency",
    weights: Sequence[float] | None = None,
    criterion: str | None = None,
    tolerable_loss: float | None = None,
    max_trials: int = MAX_TRIALS,
    timeout: float = 0.0,
    calibration: Any = None,
    calibration_samples: int = CALIBRATION_SAMPLES,
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    eval_func: Callable[[Any], float] | None = None,
    executor: str | Mapping[str, Any] = "serial",
    run_dir: str | Path | None = None,
    isolation: str = "none",
    output: str | Sequence[str] | None = None,
    allow_poor_baseline: bool = False,
    constants: Mapping[str, Any] | None = None,
    axes: Mapping[str, int] | None = None,
    state: Mapping[str, str] | None = None,
    calibration_batch_size: int | None = None,
    pad: Any = None,
    data_lengths: Any = None,
    **options: Any,
) -> Study:
    """Tune a trained model to int8, as the command line does, from Python.

    Args:
        model: A path (``.onnx``, ``.keras``, ``.h5``, frozen ``.pb``, a SavedModel folder), an ``onnx.ModelProto``, a
            Keras model, a ``GraphDef`` or a loaded SavedModel.
        data: Samples with labels, or without them for a metric that compares with fp32: (x, y) arrays, x alone, the
            path of an ``.npz``, or an iterable of batches (x, y), such as a ``tf.data.Dataset`` or a torch
            ``DataLoader``. Not needed with `eval_func` and `calibration`.
        strategy: A name, or a mapping of a name and the strategy's settings.
        backend: A name, or a mapping of a name and settings; the default is ONNX Runtime for an ONNX model and
            TensorFlow for any other model.
        metric: A name, a mapping of a name and settings, a `Metric`, or an object with ``reset``, ``update`` and
            ``result``. None for ``top1`` where `data` has labels, otherwise for ``cosine``, which compares with fp32.
        higher_is_better: Overrides the metric's own direction.
        objectives: ``latency``, ``throughput``, ``size``, or several.
        weights: Share of each objective.
        criterion: ``relative`` or ``absolute``; None for the metric's default, see `TuningConfig`.
        tolerable_loss: Accepted loss of the metric; None for the metric's default, see `TuningConfig`.
        max_trials: Largest number of configurations to measure, 0 for no limit.
        timeout: Time limit of the whole run in seconds, 0 for no limit; see `TuningConfig`.
        calibration: Samples for calibration, of any type that `data` accepts; labels are not needed. The default is the
            first samples of `data`, which are then not used for evaluation.
        calibration_samples: Number of samples for calibration.
        preprocess: Preprocessing from samples to model inputs: any of scale, offset, mean, std, resize, layout.
        eval_func: A function that takes a model (an ``onnx.ModelProto``; for TensorFlow a callable loaded SavedModel)
            and returns its accuracy. It replaces `metric` and the evaluation on `data`.
        executor: The executor of trials: a name, or a mapping of a name and settings.
        run_dir: Folder for the run's files, by default ``outputs/<date>/<time>``. A call with the same folder resumes
            the run.
        isolation: ``none`` runs the engine in the caller's process. ``process`` runs it in a separate process, where a
            crash or a hang costs one trial, and `trial_timeout`, `stage_timeout` and `memory_limit` are enforced. Model
            and samples are written to files for this process. An `eval_func` or a metric object cannot be used.
        output: Name of the model's output that the metric reads; without it, the one that fits the labels. Several
            names, or all outputs by default, for a metric that compares with fp32.
        allow_poor_baseline: Tune a model even if its metric in fp32 is 0, or no better than a trivial answer's.
        constants: Inputs that have the same value in each run, by name, such as ``{"sr": 16000}``.
        axes: The axis that counts samples in inputs and outputs where it is not axis 0, by name. In `data`, samples
            come first.
        state: State that the model carries along a sequence, input to output; see `InputSettings`.
        calibration_batch_size: Most samples of a calibration run; None to choose it by memory.
        data_lengths: Padded inputs to the arrays of their samples' lengths, ``data.lengths``; see `InputSettings`.
        pad: Value that fills samples of different lengths up, or a mapping of inputs to values; see `InputSettings`.
        **options: Any key of the sections ``tuning``, ``space`` and ``measure`` of the configuration.

    Returns:
        The study. An interrupt ends it early with the best result so far.

    Raises:
        InputError: an argument is not valid; the message names it.
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
            model=model,
            data=data,
            strategy=strategy,
            backend=backend,
            metric=metric,
            higher_is_better=higher_is_better,
            objectives=objectives,
            weights=weights,
            calibration=calibration,
            calibration_samples=calibration_samples,
            preprocess=preprocess,
            eval_func=eval_func,
            executor=executor,
            run_dir=run_dir,
            isolation=isolation,
            output=output,
            allow_poor_baseline=allow_poor_baseline,
            inputs=InputSettings(constants, axes, state, calibration_batch_size, pad, data_lengths),
            options=everything,
        )
    )
    return study
