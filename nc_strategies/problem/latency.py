"""Latency as a sum of terms, so that a strategy can solve for it instead of sampling it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nc_strategies.space import Config, OpScheme
from nc_strategies.space.capabilities import OptionValue


@dataclass(frozen=True)
class Boundary:
    """A tensor between operators, and what it costs where int8 meets fp32.

    The quantization is paid once when the producer is float and at least one consumer is int8, the dequantization once
    when the producer is int8 and at least one consumer is float.

    Args:
        producer: Operator that makes the tensor; None for one that is always float: an input, an operator without a
            choice.
        consumers: Operators with a choice that take it.
        quantize: Cost of the conversion to int8, relative to fp32's latency.
        dequantize: Cost of the conversion to float, relative to fp32's latency.
        float_consumer: An operator without a choice, or the caller, takes it in float too.
    """

    producer: str | None
    consumers: tuple[str, ...]
    quantize: float
    dequantize: float
    float_consumer: bool = False


@dataclass(frozen=True)
class LatencyTerms:
    """A model's latency relative to fp32's: what is always paid, a term an operator, a term a boundary.

    Args:
        base: What no choice changes.
        ops: Operator name to scheme to cost; `FLOAT` is among the schemes where it can be chosen.
        boundaries: Conversions.
        options: Pairs (graph option, value) to what the value adds.
        error: Standard deviation of the relative error on configurations it was not fitted to; 0 when unknown.
    """

    base: float
    ops: Mapping[str, Mapping[OpScheme, float]]
    boundaries: tuple[Boundary, ...] = ()
    options: Mapping[tuple[str, OptionValue], float] = field(default_factory=dict)
    error: float = 0.0

    def __call__(self, config: Config) -> float:
        """Predicted latency of a configuration relative to fp32's.

        Raises:
            KeyError: a scheme for which there is no term.
        """
        schemes = config.schemes
        total = self.base + sum(costs[schemes[name]] for name, costs in self.ops.items())
        total += sum(self.options.get(pair, 0.0) for pair in config.options)
        for boundary in self.boundaries:
            made_float = boundary.producer is None or schemes[boundary.producer].is_float
            if made_float:
                total += boundary.quantize * any(not schemes[c].is_float for c in boundary.consumers)
            else:
                float_consumer = boundary.float_consumer or any(schemes[c].is_float for c in boundary.consumers)
                total += boundary.dequantize * float_consumer
        return total
