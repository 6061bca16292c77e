"""Settings of the components. Their fields are the configuration's keys, with their types checked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class BisectSettings:
    """Settings of `BisectStrategy`.

    Args:
        use_sensitivity: Begin with the operators that the backend's estimate says cost the most accuracy, instead of
            the first ones.
    """

    name: str = "bisect"
    use_sensitivity: bool = True


@dataclass
class NumpySettings:
    """Settings of `NumpyBackend`: none."""

    name: str = "numpy_mlp"


@dataclass
class MlpSettings:
    """Settings of `MlpModel`."""

    name: str = "mlp"
    path: str = "???"


@dataclass
class BrierSettings:
    """Settings of `Brier`: none."""

    name: str = "brier"
