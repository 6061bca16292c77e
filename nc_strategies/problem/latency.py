"""Latency as a sum of terms, so that a strategy can solve for it instead of sampling it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from nc_strategies.space import Config, OpScheme
from nc_strategies.space.capabilities import OptionValue


class ConversionCounts(NamedTuple):
    """How often each cost of a `ConversionEdge` is paid."""

    quantize: int = 0
    dequantize: int = 0
    requantize: int = 0
    clip: int = 0


Op = TypeVar("Op", str, int)
"""How an operator is named: by its name, or by a strategy's own number."""


@dataclass(frozen=True)
class ConversionEdge(Generic[Op]):
    """A tensor between operators, and what it costs where int8 meets fp32, or one activation scheme another.

    The quantization is paid once when the producer is float and at least one consumer is int8, the dequantization once
    when the producer is int8 and at least one consumer is float. The last two costs only arise where consumers are in
    int8 by other schemes than the default; a strategy that keeps to one scheme per operator may leave them out.

    An edge may also join operators that are not neighbours but influence each other's time. Costs are negative where
    a conversion saves time.

    Args:
        producer: Operator that makes the tensor; None for one that is always float: an input, an operator without a
            choice.
        consumers: Operators with a choice that take it, the first to run first.
        elements: Size of the tensor for one sample, 0 when unknown.
        float_consumer: An operator without a choice, or the caller, takes it too, in floating point.
        single_scheme: The tensor has one int8 encoding for all consumers; otherwise one for each activation scheme
            among them.
        clipped: Activation schemes, as pairs (dtype, scheme), that do not imply the producer's activation function, so
            that it runs on its own behind an int8 producer.
        quantize: Cost of the conversion to int8, relative to fp32's latency; 0 until costs are known, as the others.
        dequantize: Cost of the conversion to float, relative to fp32's latency.
        requantize: Cost of each activation scheme among the consumers after the first, relative to fp32's latency.
        clip: Cost, relative to fp32's latency, of the producer's activation function when the tensor is int8 in a
            scheme of `clipped`: the first int8 consumer's scheme, or without one the producer's own.
    """

    producer: Op | None
    consumers: tuple[Op, ...]
    elements: int = 0
    float_consumer: bool = False
    single_scheme: bool = True
    clipped: frozenset[tuple[str, str]] = frozenset()
    quantize: float = field(default=0.0, kw_only=True)
    dequantize: float = field(default=0.0, kw_only=True)
    requantize: float = field(default=0.0, kw_only=True)
    clip: float = field(default=0.0, kw_only=True)

    def paid(self: ConversionEdge[str], config: Config) -> ConversionCounts:
        """What a configuration pays for."""
        schemes = config.schemes
        wanted = list(dict.fromkeys(schemes[c].activation for c in self.consumers if not schemes[c].is_float))
        further = max(0, len(wanted) - 1)
        if self.producer is None or schemes[self.producer].is_float:
            return ConversionCounts(quantize=int(bool(wanted)), requantize=further)
        scheme = wanted[0] if wanted else schemes[self.producer].activation
        floats = self.float_consumer or any(schemes[c].is_float for c in self.consumers)
        return ConversionCounts(0, int(floats), further, int((scheme.dtype, scheme.scheme) in self.clipped))

    def cost(self: ConversionEdge[str], config: Config) -> float:
        """What a configuration pays, relative to fp32's latency."""
        paid = self.paid(config)
        return (
            paid.quantize * self.quantize
            + paid.dequantize * self.dequantize
            + paid.requantize * self.requantize
            + paid.clip * self.clip
        )


@dataclass(frozen=True)
class LatencyTerms:
    """A model's latency relative to fp32's: what is always paid, a term an operator, a term a boundary.

    Args:
        base: What no choice changes.
        ops: Operator name to scheme to cost; `FLOAT` is among the schemes where it can be chosen.
        conversion_edges: Conversions.
        options: Pairs (graph option, value) to what the value adds.
        error: Standard deviation of the relative error on configurations it was not fitted to; 0 when unknown.
        all_float: What the graph without any int8 costs more than its terms, negative for less: an engine may optimize
            it further.
    """

    base: float
    ops: Mapping[str, Mapping[OpScheme, float]]
    conversion_edges: tuple[ConversionEdge[str], ...] = ()
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
        return total + sum(edge.cost(config) for edge in self.conversion_edges)
