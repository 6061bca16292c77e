"""Neural Compressor's entry point: `fit` has its arguments and runs the tuning of this package."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nc_strategies.app.python import Request, run
from nc_strategies.app.studies import Study
from nc_strategies.compat.neural_compressor import PostTrainingQuantConfig
from nc_strategies.compat.neural_compressor.metrics import metric_of
from nc_strategies.compat.neural_compressor.strategies import strategy_of
from nc_strategies.errors import InputError
from nc_strategies.problem.objective import Shortfall
from nc_strategies.registry import registry
from nc_strategies.report.original import keep_original

__all__ = ["QuantizedModel", "fit"]


@dataclass(repr=False)
class QuantizedModel:
    """The result of `fit`.

    Args:
        study: The run that found the model.
        native: Builds the model as an object of its framework.
    """

    study: Study
    native: Callable[[], Any]

    @property
    def model(self) -> Any:
        """The model as an object of its framework: an ``onnx.ModelProto``, or a loaded SavedModel with a call."""
        return self.native()

    @property
    def path(self) -> Path:
        """Path of the model in the run's folder."""
        assert self.study.model_path is not None
        return self.study.model_path

    def save(self, root: str | Path) -> Path:
        """Write the model.

        Args:
            root: For ONNX the file, or an existing folder in which ``model.onnx`` is written; for TensorFlow the folder
                of the SavedModel, which must be new or empty.

        Returns:
            The path of the written model.

        Raises:
            InputError: the model cannot be written there.
        """
        target = Path(root).expanduser()
        try:
            if self.path.is_dir():
                if target.is_dir() and any(target.iterdir()):
                    raise InputError("save", f"{target} is not empty", "a new or empty folder")
                shutil.copytree(self.path, target, dirs_exist_ok=True)
                return target
            if target.is_dir() or str(root).endswith(("/", "\\")):
                target = target / self.path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.path, target)
        except OSError as error:
            raise InputError("save", f"{target} cannot be written ({error.strerror})") from None
        return target

    def __repr__(self) -> str:
        return f"QuantizedModel({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return self.study._repr_html_()


def fit(
    model: Any,
    conf: PostTrainingQuantConfig,
    calib_dataloader: Any = None,
    calib_func: Any = None,
    eval_func: Callable[[Any], float] | None = None,
    eval_dataloader: Any = None,
    eval_metric: Any = None,
    *,
    run_dir: str | Path | None = None,
    **options: Any,
) -> QuantizedModel | None:
    """Tune a model, as `conf` says, until it is as accurate as asked for, and surely faster than fp32.

    Args:
        model: See `nc_strategies.tune`.
        conf: Constraint, objectives, budget and overrides.
        calib_dataloader: Iterable of (input, label) batches for calibration, whose labels are ignored; by default the
            first samples of `eval_dataloader`.
        calib_func: Not supported, as in Neural Compressor for these frameworks.
        eval_func: A function from a model to its accuracy. It receives the object that Neural Compressor passes: an
            ``onnx.ModelProto``; for TensorFlow and Keras a loaded SavedModel, which can also be called with a batch.
        eval_dataloader: Iterable of (input, label) batches for `eval_metric`.
        eval_metric: A mapping such as ``{"topk": 1}``, a name, or an object with ``reset``, ``update(predictions,
            labels)`` and ``result``.
        run_dir: Folder of the run's files; by default ``outputs/<date>/<time>``. An existing folder is resumed.
        **options: Keys of the configuration's sections ``tuning``, ``space`` and ``measure``; they override `conf`.
            Also ``output`` and ``allow_poor_baseline``, see `nc_strategies.tune`.

    Returns:
        The model; None, with a warning that says why, where the run's status is not ``met``: none was accurate enough,
        or none that was is better than fp32 with its whole 95 % interval. The closest one is in the run's folder.

    Raises:
        InputError: an argument is not valid.
        EngineError: the engine could not measure anything.
    """
    if not isinstance(conf, PostTrainingQuantConfig):
        raise InputError("conf", f"is of type {type(conf).__name__}", "a PostTrainingQuantConfig")
    if calib_func is not None:
        raise InputError("calib_func", "is not supported: a model is calibrated from batches", "give calib_dataloader")
    if eval_func is None and eval_dataloader is None:
        raise InputError(
            "eval_func",
            "is missing: tuning needs an evaluation",
            "give eval_func, or eval_dataloader and eval_metric",
        )
    if eval_func is None and eval_metric is None:
        raise InputError("eval_metric", "is missing", "a metric for eval_dataloader, such as {'topk': 1}")
    study, backend = run(
        _request(model, conf, calib_dataloader, eval_func, eval_dataloader, eval_metric, run_dir, options)
    )
    best = study.best
    assert best is not None
    if study.status != "met":
        advice = keep_original(study.result)
        where = f"and is in {study.model_path}{f'; {advice}' if advice else ''}"
        warnings.warn(f"{_why_missed(study.result)}, {where}", stacklevel=2)
        return None
    assert backend is not None, "fit runs in the caller's process"
    native = backend.native
    return QuantizedModel(study, lambda: native(best.config))


def _why_missed(result: dict[str, Any]) -> str:
    """Which part of the goal no model met, and how close the closest came."""
    goal, accuracy = result["goal"], result["tuned"]["accuracy"]
    low, high = result["speedup_ci95"]
    reached = f"{accuracy:.4f} of {goal['threshold']:.4f}"
    speed = f"is {result['speedup']:.2f} times as fast as fp32 (95 %: {low:.2f} to {high:.2f})"
    match goal.get("shortfall"):
        case Shortfall.ACCURACY:
            return f"no model was accurate enough: the closest has {reached}"
        case Shortfall.SAMPLES:
            return f"no model was evaluated on all samples: the closest has an estimated {reached}"
        case Shortfall.OBJECTIVE:
            named = " and ".join(result["objectives"])
            better = "faster than fp32" if named in ("latency", "throughput") else f"better than fp32 in {named}"
            return f"no accurate model was surely {better}: the closest {speed}"
    return f"no model met the goal: the closest has {reached} and {speed}"  # a result of an earlier version


def _approach(conf: PostTrainingQuantConfig) -> dict[str, Any]:
    """The approach as overrides of all operator types; operators without such a mode stay in fp32."""
    if conf.approach == "auto":
        return {}
    return {".*": {"activation": {"quant_mode": [conf.approach]}}}


def _request(
    model: Any,
    conf: PostTrainingQuantConfig,
    calibration: Any,
    eval_func: Any,
    evaluation: Any,
    eval_metric: Any,
    run_dir: str | Path | None,
    more: dict[str, Any],
) -> Request:
    output, poor = more.pop("output", None), more.pop("allow_poor_baseline", False)
    tuning, accuracy = conf.tuning_criterion, conf.accuracy_criterion
    options = {
        "criterion": accuracy.criterion,
        "tolerable_loss": accuracy.tolerable_loss,
        "max_trials": tuning.max_trials,
        "timeout": tuning.timeout,
        # Neural Compressor's documentation: a timeout of 0 ends the tuning at the first model that meets the goal.
        "stop_when": "budget" if tuning.timeout else "met",
        "op_type_dict": {**_approach(conf), **(conf.op_type_dict or {})},
        "op_name_dict": conf.op_name_dict,
        # No engine here computes in bf16 or fp16, so these need not be excluded.
        "excluded_precisions": [name for name in conf.excluded_precisions if name not in ("bf16", "fp16")],
        **more,
    }
    return Request(
        model=model,
        data=evaluation if eval_func is None or calibration is None else None,
        strategy=_strategy(conf),
        backend=_backend(conf),
        metric=metric_of(eval_metric, accuracy.higher_is_better) if eval_func is None else "top1",
        higher_is_better=accuracy.higher_is_better,
        objectives=list(tuning.objectives),
        weights=list(tuning.objectives.values()),
        calibration=calibration,
        calibration_samples=conf.calibration_sampling_size[0],
        eval_func=eval_func,
        run_dir=run_dir,
        name=conf.model_name,
        output=output,
        allow_poor_baseline=poor,
        options=options,
    )


def _strategy(conf: PostTrainingQuantConfig) -> dict[str, Any]:
    criterion = conf.tuning_criterion
    installed = registry().names("strategy")
    return strategy_of(criterion.strategy, criterion.strategy_kwargs, conf.quant_level, installed)


def _backend(conf: PostTrainingQuantConfig) -> Any:
    name = None if conf.backend == "default" else conf.backend
    if conf.reduce_range is None:
        return name
    if name == "tensorflow":
        raise InputError(
            "reduce_range",
            "is set, but for TensorFlow it is determined by whether this processor's kernels saturate",
            "leave it out",
        )
    return {"name": "onnxruntime", "reduce_range": "always" if conf.reduce_range else "never"}
