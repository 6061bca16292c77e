"""Settings of the strategies, in a module that imports no heavy package."""

from __future__ import annotations

from dataclasses import dataclass

from nc_strategies.errors import InputError


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"strategy.{key}", f"is {value}", f"{least} or more")


@dataclass
class AutoSettings:
    """Settings of `AutoStrategy`; there are none but the name."""

    name: str = "auto"


@dataclass
class BasicSettings:
    """Settings of `BasicStrategy`.

    Args:
        recipes: Try fp32 for the first and last convolution or matmul, and for pre- and post-processing.
        fallback: Try fp32 for one operator at a time, then for several together.
    """

    name: str = "basic"
    recipes: bool = True
    fallback: bool = True


@dataclass
class ConservativeSettings:
    """Settings of `ConservativeStrategy`.

    Args:
        split: Try halves of an operator type that loses too much as a whole, down to single operators.
    """

    name: str = "conservative"
    split: bool = True


@dataclass
class ExhaustiveSettings:
    """Settings of `ExhaustiveStrategy`.

    Args:
        limit: Largest number of configurations that are enumerated; a larger space is refused.

    Raises:
        InputError: the limit is below 1.
    """

    name: str = "exhaustive"
    limit: int = 10_000

    def __post_init__(self) -> None:
        _at_least("limit", self.limit, 1)


@dataclass
class HawqV2Settings:
    """Settings of `HawqV2Strategy`.

    Args:
        draws: Random vectors of the trace's estimate. The error falls with their square root.

    Raises:
        InputError: the number is below 1.
    """

    name: str = "hawq_v2"
    draws: int = 16

    def __post_init__(self) -> None:
        _at_least("draws", self.draws, 1)


@dataclass
class MseSettings:
    """Settings of `MseStrategy`; there are none but the name."""

    name: str = "mse"


@dataclass
class MseV2Settings:
    """Settings of `MseV2Strategy`.

    Args:
        confidence_batches: Batches of calibration samples on which operators are compared; 0 to compare none and keep
            the first order.

    Raises:
        InputError: the number is below 0.
    """

    name: str = "mse_v2"
    confidence_batches: int = 2

    def __post_init__(self) -> None:
        _at_least("confidence_batches", self.confidence_batches, 0)


@dataclass
class RandomSettings:
    """Settings of `RandomStrategy`."""

    name: str = "random"
    default_first: bool = True
