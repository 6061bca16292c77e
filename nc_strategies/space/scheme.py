"""Quantization schemes of a tensor and of an operator."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

FP32 = "fp32"
DTYPES = ("int8", "uint8", "int4", FP32)
STATIC, DYNAMIC, WEIGHT_ONLY = "static", "dynamic", "weight_only"
MODES = (STATIC, DYNAMIC, WEIGHT_ONLY, FP32)
"""How an operator is quantized: ranges of activations known from calibration; computed at run time; activations in
floating point; not at all."""


@dataclass(frozen=True, order=True)
class TensorScheme:
    """The quantization of one tensor.

    Args:
        dtype: ``int8``, ``uint8``, ``int4`` (weights only) or ``fp32`` (not quantized; the other fields are then
            ``none``).
        scheme: ``sym`` (zero point at the middle of the integer range) or ``asym``.
        granularity: ``per_tensor`` (one scale), ``per_channel`` (one scale per output channel) or ``per_block_N`` (one
            scale per N consecutive weights of an output channel).
        algorithm: Calibration algorithm that chooses the range: ``minmax``, ``percentile`` or ``kl``; or ``dynamic``,
            the range of each input at run time.
    """

    dtype: str
    scheme: str = "sym"
    granularity: str = "per_tensor"
    algorithm: str = "minmax"

    @property
    def is_float(self) -> bool:
        """Whether the tensor stays in floating point."""
        return self.dtype == FP32

    def __str__(self) -> str:
        return FP32 if self.is_float else f"{self.dtype} {self.scheme} {self.granularity} {self.algorithm}"


FLOAT_TENSOR = TensorScheme(FP32, "none", "none", "none")


@dataclass(frozen=True, order=True)
class OpScheme:
    """The quantization of one operator: of its activations (inputs), and of its weight if it has one."""

    activation: TensorScheme
    weight: TensorScheme | None = None

    @cached_property
    def mode(self) -> str:
        """One of `MODES`, as it follows from activation and weight."""
        if self.activation.algorithm == DYNAMIC:
            return DYNAMIC
        if not self.activation.is_float:
            return STATIC
        return FP32 if self.weight is None or self.weight.is_float else WEIGHT_ONLY

    @cached_property
    def is_float(self) -> bool:
        """Whether nothing of the operator is quantized."""
        return self.mode == FP32

    @cached_property
    def is_static(self) -> bool:
        """Whether the operator reads int8 tensors whose scales are constants. All others read floating point."""
        return self.mode == STATIC

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serializable dictionary; the inverse of `from_dict`."""
        if self.is_float:
            return {"dtype": FP32}
        return {"activation": asdict(self.activation), "weight": asdict(self.weight) if self.weight else None}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> OpScheme:
        """Read what `to_dict` wrote. Equal schemes share one object, because a run may read some hundred thousand.

        Raises:
            KeyError, TypeError: `to_dict` did not write this data.
        """
        if data.get("dtype") == FP32:
            return FLOAT
        weight = data["weight"]
        return _shared(tuple(data["activation"].items()), tuple(weight.items()) if weight else None)

    def __str__(self) -> str:
        return FP32 if self.is_float else f"activation {self.activation}; weight {self.weight or 'none'}"


def way(scheme: OpScheme) -> str:
    """A quantization mode with what distinguishes schemes of that mode in speed, such as ``weight_only int4``."""
    weight = scheme.weight
    return f"{scheme.mode} {weight.dtype}" if scheme.mode == WEIGHT_ONLY and weight is not None else scheme.mode


@lru_cache
def _shared(activation: tuple[tuple[str, str], ...], weight: tuple[tuple[str, str], ...] | None) -> OpScheme:
    return OpScheme(TensorScheme(**dict(activation)), TensorScheme(**dict(weight)) if weight else None)


FLOAT = OpScheme(FLOAT_TENSOR, FLOAT_TENSOR)
"""The scheme of an operator that stays in floating point."""
