"""Latency as a sum of terms, so that a strategy can solve for the fastest configuration instead of sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from nc_strategies.space import Config, OpScheme
from nc_strategies.space.capabilities import OptionValue


class ConversionCounts(NamedTuple):
    """How often each cost of a `ConversionEdge` is incurred."""

    quantize: int = 0
    dequantize: int = 0
    requantize: int = 0
    clip: int = 0


Op = TypeVar("Op", str, int)
"""Identifier of an operator: its name, or a number that a strategy assigns."""


@dataclass(frozen=True)
class ConversionEdge(Generic[Op]):
    """A tensor between operators, and the costs of its conversions between fp32, int8 and activation schemes.

    Only operators in static int8 read and write int8 tensors: here, all other modes count as floating point.

    Quantization costs once if the producer is in floating point and at least one consumer is in int8. Dequantization
    costs once if the producer is in int8 and at least one consumer is in floating point. The costs `requantize` and
    `clip` occur only if consumers use other int8 schemes than the default; a strategy that uses one scheme per operator
    may ignore them.

    An edge may also join operators that are not neighbours but influence each other's latency. A cost is negative if
    the conversion saves time.

    Args:
        producer: Operator that computes the tensor; None if the tensor is always floating point, as a model input or
            the output of an operator that cannot be quantized.
        consumers: Quantizable operators that read the tensor, in execution order.
        elements: Number of elements of the tensor per sample; 0 if unknown.
        float_consumer: Whether an operator that cannot be quantized, or the caller, reads it in floating point as well.
        single_scheme: Whether the tensor has one int8 encoding for all consumers. Otherwise it has one per activation
            scheme among them.
        clipped: Activation schemes, as pairs (dtype, scheme), whose range does not imply the producer's activation
            function. The function then runs as a separate node after an int8 producer.
        quantize: Cost of the conversion to int8, relative to fp32's latency; like the other costs 0 until it is known.
        dequantize: Cost of the conversion to floating point, relative to fp32's latency.
        requantize: Cost per activation scheme among the consumers after the first, relative to fp32's latency.
        clip: Cost of the producer's activation function, relative to fp32's latency, if the tensor is int8 in a scheme
            of `clipped`. That is the scheme of the first int8 consumer, or without one the producer's own.
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
        """How often a configuration incurs each cost."""
        schemes = config.schemes
        wanted = list(dict.fromkeys(schemes[c].activation for c in self.consumers if schemes[c].is_static))
        further = max(0, len(wanted) - 1)
        if self.producer is None or not schemes[self.producer].is_static:
            return ConversionCounts(quantize=int(bool(wanted)), requantize=further)
        scheme = wanted[0] if wanted else schemes[self.producer].activation
        floats = self.float_consumer or not all(schemes[c].is_static for c in self.consumers)
        return ConversionCounts(0, int(floats), further, int((scheme.dtype, scheme.scheme) in self.clipped))

    def cost(self: ConversionEdge[str], config: Config) -> float:
        """Cost of the edge in a configuration, relative to fp32's latency."""
        paid = self.paid(config)
        return (
            paid.quantize * self.quantize
            + paid.dequantize * self.dequantize
            + paid.requantize * self.requantize
            + paid.clip * self.clip
        )


@dataclass(frozen=True)
class LatencyTerms:
    """A model's latency relative to fp32's: a constant, one term per operator, one term per conversion edge.

    Args:
        base: The part that no choice changes.
        ops: Operator name to scheme to cost; `FLOAT` is among the schemes if it can be chosen.
        conversion_edges: The conversion edges.
        options: Pair (graph option, value) to the cost that the value adds.
        error: Standard deviation of the relative error on configurations outside the fit; 0 if unknown.
        all_float: Cost of the graph without any int8 operator beyond its terms. It is negative if the engine optimizes
            that graph further.
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
            KeyError: a scheme of the configuration has no term.
        """
        schemes = config.schemes
        total = self.base if config.int8_ops else self.base + self.all_float
        total += sum(costs[schemes[name]] for name, costs in self.ops.items())
        total += sum(self.options.get(pair, 0.0) for pair in config.options)
        return total + sum(edge.cost(config) for edge in self.conversion_edges)
