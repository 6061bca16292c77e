"""The configuration of a run, as Neural Compressor's `PostTrainingQuantConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nc_strategies.compat.neural_compressor.checks import Check, Checked, empty, flag, number, one_of, or_none, text
from nc_strategies.compat.neural_compressor.criteria import AccuracyCriterion, TuningCriterion
from nc_strategies.compat.neural_compressor.recipes import checked_recipes
from nc_strategies.errors import InputError

CPU_ONLY = "int8 is tuned and timed on the CPU"


def _approach(key: str, value: Any) -> Any:
    known = ("static", "dynamic", "weight_only")
    return one_of("auto", *known)(key, next((n for n in known if isinstance(value, str) and n in value), value))


def _sampling_size(key: str, value: Any) -> list[int]:
    sizes = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(sizes) != 1:
        raise InputError(key, f"is {value!r}: several sizes are not tried in turn", "one size, such as [100]")
    return [number(1, whole=True)(key, sizes[0])]


def _precisions(key: str, value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else list(value or [])
    for name in names:
        one_of("bf16", "fp16", "int8", "uint8", "fp32")(key, name)
    return names


def _overrides(key: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(key, f"is {value!r}", "a mapping, such as {'Conv': {'weight': {'dtype': ['fp32']}}}")
    # In Neural Compressor's schema a part may be None; it then overrides nothing.
    return {
        name: {part: fields for part, fields in parts.items() if fields is not None}
        if isinstance(parts, Mapping)
        else parts
        for name, parts in value.items()
    }


@dataclass
class PostTrainingQuantConfig(Checked):
    """The configuration of `nc_strategies.quantization.fit`.

    Args:
        device: ``cpu``.
        backend: ``default`` (ONNX Runtime for an ONNX model, TensorFlow for a TensorFlow or Keras model),
            ``onnxruntime`` or ``tensorflow``.
        domain: Accepted without effect: the precision of every operator is searched in every domain.
        recipes: See `nc_strategies.compat.neural_compressor.recipes`.
        quant_format: ``default`` or ``QDQ``.
        inputs: Must be empty: inputs are read from the model.
        outputs: Must be empty: outputs are read from the model.
        approach: ``static``, ``dynamic``, ``weight_only`` (in Neural Compressor's words also
            ``post_training_static_quant`` and the like), or ``auto``: whichever is best for each operator.
        calibration_sampling_size: Number of calibration samples, or a list with this number.
        op_type_dict: Overrides by operator type; see `nc_strategies.space.Overrides`.
        op_name_dict: Overrides by operator name.
        reduce_range: 7-bit weights; None lets the search choose if this processor's kernels saturate.
        example_inputs: Must be empty: it is for PyTorch only.
        excluded_precisions: Data types that are not used.
        quant_level: ``auto`` and 1 run the strategy of `tuning_criterion`; 0 runs the conservative strategy.
        accuracy_criterion: The constraint.
        tuning_criterion: Strategy, budget and objectives.
        diagnosis: Must be False.
        ni_workload_name: Accepted without effect: it is for the diagnosis only.
        model_name: The model's name in reports.

    Raises:
        InputError: a value is not allowed.
    """

    _checks: ClassVar[Mapping[str, Check]] = {
        "device": one_of("cpu", refused=dict.fromkeys(("gpu", "npu", "xpu"), CPU_ONLY)),
        "backend": one_of(
            "default",
            "onnxruntime",
            "tensorflow",
            refused={
                **dict.fromkeys(("onnxrt_trt_ep", "onnxrt_cuda_ep", "onnxrt_dnnl_ep", "onnxrt_dml_ep"), CPU_ONLY),
                "itex": "the int8 kernels of stock TensorFlow are used, no extension",
                "ipex": "PyTorch is not supported",
            },
        ),
        "domain": one_of("auto", "cv", "object_detection", "nlp", "recommendation_system"),
        "recipes": checked_recipes,
        "quant_format": one_of(
            "default",
            "QDQ",
            refused={"QOperator": "models are saved as QDQ, which ONNX Runtime fuses into the same int8 kernels"},
        ),
        "inputs": empty("a model's inputs are read from it"),
        "outputs": empty("a model's outputs are read from it; cut a frozen graph beforehand"),
        "approach": _approach,
        "calibration_sampling_size": _sampling_size,
        "op_type_dict": _overrides,
        "op_name_dict": _overrides,
        "reduce_range": or_none(flag),
        "example_inputs": empty("it traces PyTorch models; export the model with torch.onnx.export"),
        "excluded_precisions": _precisions,
        "quant_level": one_of("auto", 0, 1),
        "diagnosis": empty("there is no Neural Insights here; every run leaves trials.jsonl and result.json"),
        "ni_workload_name": text,
        "model_name": text,
    }

    device: str = "cpu"
    backend: str = "default"
    domain: str = "auto"
    recipes: Any = None
    quant_format: str = "default"
    inputs: Any = field(default_factory=list)
    outputs: Any = field(default_factory=list)
    approach: str = "static"
    calibration_sampling_size: Any = 100
    op_type_dict: Any = None
    op_name_dict: Any = None
    reduce_range: bool | None = None
    example_inputs: Any = None
    excluded_precisions: Any = field(default_factory=list)
    quant_level: str | int = "auto"
    accuracy_criterion: AccuracyCriterion = field(default_factory=AccuracyCriterion)
    tuning_criterion: TuningCriterion = field(default_factory=TuningCriterion)
    diagnosis: bool = False
    ni_workload_name: str = "quantization"
    model_name: str = ""

    def __setattr__(self, name: str, value: Any) -> None:
        kinds = {"accuracy_criterion": AccuracyCriterion, "tuning_criterion": TuningCriterion}
        if name in kinds and not isinstance(value, kinds[name]):
            raise InputError(name, f"is of type {type(value).__name__}", f"expected {kinds[name].__name__}")
        super().__setattr__(name, value)
