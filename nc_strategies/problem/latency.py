"""Latency as a sum of terms, so that a strategy can solve for it instead of sampling it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from nc_strategies.space import Config, OpScheme
from nc_strategies.space.capabilities import OptionValue


class Conversions(NamedTuple):
    """How often each cost of a `Boundary` is paid."""

    quantize: int = 0
    dequantize: int = 0
    requantize: int = 0
    clip: int = 0


@dataclass(frozen=True)
class Boundary:
    """A tensor between operators, and what it costs where int8 meets fp32, or one int8 form another.

    The quantization is paid once when the producer is float and at least one consumer is int8, the dequantization once
    when the producer is int8 and at least one consumer is float. The last two costs only arise where consumers are in
    int8 by other schemes than the default; a strategy that keeps to one scheme an operator may leave them out.

    It may also stand for operators that are not neighbours, whose times hang on each other. Costs are negative where
    that saves time.

    Args:
        producer: Operator that makes the tensor; None for one that is always float: an input, an operator without a
            choice.
        consumers: Operators with a choice that take it, the first to run first.
        quantize: Cost of the conversion to int8, relative to fp32's latency.
        dequantize: Cost of the conversion to float, relative to fp32's latency.
        float_consumer: An operator without a choice, or the caller, takes it in float too.
        requantize: Cost of each activation scheme among the consumers after the first.
        clip: Cost of the producer's activation function when the tensor is int8 in a form that does not imply it: the
            first int8 consumer's, or without one the producer's own.
        clipped: Activation schemes of such forms, as pairs (dtype, scheme).
    """

    producer: str | None
    consumers: tuple[str, ...]
    quantize: float
    dequantize: float
    float_consumer: bool = False
    requantize: float = 0.0
    clip: float = 0.0
    clipped: frozenset[tuple[str, str]] = frozenset()

    def paid(self, config: Config) -> Conversions:
        """What a configuration pays for."""
        schemes = config.schemes
        forms = list(dict.fromkeys(schemes[c].activation for c in self.consumers if not schemes[c].is_float))
        further = max(0, len(forms) - 1)
        if self.producer is None or schemes[self.producer].is_float:
            return Conversions(quantize=int(bool(forms)), requantize=further)
        form = forms[0] if forms else schemes[self.producer].activation
        floats = self.float_consumer or any(schemes[c].is_float for c in self.consumers)
        return Conversions(0, int(floats), further, int((form.dtype, form.scheme) in self.clipped))

    def cost(self, config: Config) -> float:
        """What a configuration pays, relative to fp32's latency."""
        paid = self.paid(config)
        return (paid.quantize * self.quantize + paid.dequantize * self.dequantize
                + paid.requantize * self.requantize + paid.clip * self.clip)


@dataclass(frozen=True)
class LatencyTerms:
    """A model's latency relative to fp32's: what is always paid, a term an operator, a term a boundary.

    Args:
        base: What no choice changes.
        ops: Operator name to scheme to cost; `FLOAT` is among the schemes where it can be chosen.
        boundaries: Conversions.
        options: Pairs (graph option, value) to what the value adds.
        error: Standard deviation of the relative error on configurations it was not fitted to; 0 when unknown.
        all_float: What the graph without any int8 costs more than its terms, negative for less: an engine may optimize
            it further.
    """

    base: float
    ops: Mapping[str, Mapping[OpScheme, float]]
    boundaries: tuple[Boundary, ...] = ()
    options: Mapping[tuple[str, OptionValue], float] = field(default_factory=dict)
    error: float = 0.0
    all_float: float = 0.0

    def __call__(self, config: Config) -> float:
        """Predicted latency of a configuration relative to fp32's.

        Raises:
            KeyError: a scheme for which there is no term.
        """
        schemes = config.schemes
        total = self.base if config.int8_ops else self.base + self.all_float
        total += sum(costs[schemes[name]] for name, costs in self.ops.items())
        total += sum(self.options.get(pair, 0.0) for pair in config.options)
        return total + sum(boundary.cost(config) for boundary in self.boundaries)
