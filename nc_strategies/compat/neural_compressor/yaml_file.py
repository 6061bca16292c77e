"""Configuration files of Neural Compressor 1.x."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nc_strategies.compat.neural_compressor.criteria import AccuracyCriterion, TuningCriterion
from nc_strategies.compat.neural_compressor.post_training import PostTrainingQuantConfig
from nc_strategies.errors import InputError, first_line

KNOWN = {
    "": ("version", "model", "device", "quantization", "tuning", "evaluation"),
    "model": ("name", "framework", "inputs", "outputs"),
    "quantization": ("approach", "calibration", "op_wise", "recipes"),
    "quantization.calibration": ("sampling_size",),
    "tuning": ("strategy", "accuracy_criterion", "objective", "exit_policy", "diagnosis"),
    "tuning.accuracy_criterion": ("relative", "absolute", "higher_is_better"),
    "tuning.exit_policy": ("timeout", "max_trials", "performance_only"),
}
"""Section to the keys that are read."""
REFUSED = {
    "evaluation": "samples and metrics are given in Python: eval_dataloader and eval_metric, or eval_func, of fit",
    "quantization.calibration.dataloader": "calibration samples are given in Python: calib_dataloader of fit",
    "quantization.model_wise": "name the operator types in op_type_dict",
    "quantization.optimization": "it is for a Neural Compressor that trains",
    "tuning.random_seed": "the seed is given in Python: seed of fit",
    "tuning.workspace": "the folder is given in Python: run_dir of fit",
    "tuning.tensorboard": "every run leaves report.html",
    "tuning.multi_objectives": "name several objectives in a TuningCriterion",
    "pruning": "models are quantized, not pruned",
    "distillation": "models are quantized, not trained",
    "graph_optimization": "models are quantized; the engine optimizes graphs by itself",
    "mixed_precision": "models are quantized to int8",
}
"""Key to the reason why it is not read."""
BACKENDS = {"onnxrt": "onnxruntime", "tensorflow": "tensorflow"}
"""First word of a framework's name to the backend."""


def read_yaml(path: str | Path) -> PostTrainingQuantConfig:
    """Read a configuration file of Neural Compressor 1.x.

    ``tuning.strategy``, ``accuracy_criterion``, ``exit_policy``, ``objective``; ``quantization.approach``,
    ``calibration.sampling_size``, ``op_wise`` and ``recipes``; ``model`` and ``device`` are read. Any other key is
    refused with the reason. Defaults are those of `PostTrainingQuantConfig`.

    Args:
        path: The file.

    Raises:
        InputError: the file cannot be read, or a key or value is not supported.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(str(path), f"cannot be read ({first_line(error)})", "a YAML file") from None
    top = _section("", {"": data})
    model, quantization, tuning = (_section(name, top) for name in ("model", "quantization", "tuning"))
    framework = str(model.get("framework") or "")
    backend = next((found for word, found in BACKENDS.items() if framework.startswith(word)), None)
    if framework and backend is None:
        raise InputError("model.framework", f"is {framework!r}", f"allowed: {', '.join(BACKENDS)}, with any suffix")
    options: dict[str, Any] = {
        "device": top.get("device"),
        "backend": backend,
        "inputs": model.get("inputs"),
        "outputs": model.get("outputs"),
        "model_name": model.get("name"),
        "approach": quantization.get("approach"),
        "recipes": quantization.get("recipes"),
        "op_name_dict": quantization.get("op_wise"),
        "diagnosis": tuning.get("diagnosis"),
        "calibration_sampling_size": _section("quantization.calibration", quantization).get("sampling_size"),
        "quant_level": 1,
        "tuning_criterion": _tuning(tuning),
        "accuracy_criterion": _accuracy(_section("tuning.accuracy_criterion", tuning)),
    }
    return PostTrainingQuantConfig(**{name: value for name, value in options.items() if value is not None})


def _tuning(tuning: Mapping[str, Any]) -> TuningCriterion:
    strategy, exits = dict(_mapping("tuning.strategy", tuning.get("strategy"))), _section("tuning.exit_policy", tuning)
    if exits.get("performance_only"):
        raise InputError("tuning.exit_policy.performance_only", "is not supported: there is no tuning without a goal")
    options: dict[str, Any] = {
        "strategy": strategy.pop("name", None),
        "strategy_kwargs": strategy or None,
        "objective": tuning.get("objective"),
        **{name: exits.get(name) for name in ("timeout", "max_trials")},
    }
    return TuningCriterion(**{name: value for name, value in options.items() if value is not None})


def _accuracy(given: Mapping[str, Any]) -> AccuracyCriterion:
    criteria = [name for name in ("relative", "absolute") if given.get(name) is not None]
    if len(criteria) > 1:
        raise InputError("tuning.accuracy_criterion", "is both relative and absolute", "one of the two")
    found = AccuracyCriterion()
    for name in criteria:
        setattr(found, name, given[name])
    if given.get("higher_is_better") is not None:
        found.higher_is_better = given["higher_is_better"]
    return found


def _section(name: str, parent: Mapping[str, Any]) -> Mapping[str, Any]:
    """A section whose keys are all read here."""
    data = _mapping(name, parent.get(name.rpartition(".")[2]))
    for key, value in data.items():
        where = f"{name}.{key}".lstrip(".")
        if where in REFUSED and value not in (None, False):
            raise InputError(where, f"is not read: {REFUSED[where]}", "leave it out")
        if key not in KNOWN[name] and where not in REFUSED:
            raise InputError(where, "is not a key that is read", f"allowed: {', '.join(KNOWN[name])}")
    return data


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(name or "the file", f"is {value!r}", "a mapping")
    return value
