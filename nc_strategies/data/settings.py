"""Settings of preprocessing and of the data loaders; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nc_strategies.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LAYOUTS = ("nhwc", "nchw")
CALIBRATION_SAMPLES = 100


@dataclass
class Preprocess:
    """``value = ((x * scale + offset) - mean) / std``, after a bilinear resize, in the model's layout.

    Args:
        scale: A factor.
        offset: Added to it.
        mean: Subtracted, one number or one a channel.
        std: Divided by, one number or one a channel.
        resize: ``[height, width]``, or None to keep the size.
        layout: Layout the model takes, ``nhwc`` or ``nchw``, when it differs from the data's; None keeps the data's.
            Which one the data is in is seen from its 1, 3 or 4 channels; where that does not tell, it is the other.
    """

    scale: float = 1.0
    offset: float = 0.0
    mean: list[float] = field(default_factory=lambda: [0.0])
    std: list[float] = field(default_factory=lambda: [1.0])
    resize: list[int] | None = None
    layout: str | None = None

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in LAYOUTS:
            raise InputError("data.preprocess.layout", f"is {self.layout!r}", f"allowed: {', '.join(LAYOUTS)}")
        if any(value == 0 for value in self.std):
            raise InputError("data.preprocess.std", "holds a zero", "it divides the values")
        if self.resize is not None and (len(self.resize) != 2 or min(self.resize) < 1):
            raise InputError("data.preprocess.resize", f"is {list(self.resize)}", "expected [height, width]")

    @property
    def is_identity(self) -> bool:
        """Whether values are passed on as they are."""
        plain = (self.scale, self.offset, list(self.mean), list(self.std)) == (1.0, 0.0, [0.0], [1.0])
        return plain and self.resize is None and self.layout is None

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Apply it to a batch; see `nc_strategies.data.preprocess.apply`."""
        from nc_strategies.data.preprocess import apply

        return apply(self, x)


@dataclass
class NpzSettings:
    """Settings of `NpzData`."""

    name: str = "npz"
    path: str = "???"
    calibration_path: str | None = None
    calibration_samples: int = CALIBRATION_SAMPLES
    preprocess: Preprocess = field(default_factory=Preprocess)


@dataclass
class SampleDataSettings:
    """Settings of `SampleData`."""

    name: str = "sample"
    calibration_samples: int = CALIBRATION_SAMPLES
    preprocess: Preprocess = field(default_factory=Preprocess)
