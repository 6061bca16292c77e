"""The space as columns of a linear model: one column per choice of each decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nc_strategies.problem import LatencyTerms
from nc_strategies.problem.latency import ConversionEdge
from nc_strategies.space import Config, OpScheme, Space
from nc_strategies.space.capabilities import OptionValue
from nc_strategies.strategies.ilp.constraints import paid

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """One choice of one decision: a scheme of tied operators, or a value of a graph option.

    Args:
        decision: Position of its decision.
        names: The operators, or the option's name alone.
        scheme: The scheme; None for an option.
        value: The option's value; None for operators.
        first: Whether it is the decision's default.
    """

    decision: int
    names: tuple[str, ...]
    scheme: OpScheme | None
    value: OptionValue | None
    first: bool

    @property
    def is_int8(self) -> bool:
        """Whether it is a scheme that quantizes something."""
        return self.scheme is not None and not self.scheme.is_float

    @property
    def is_static(self) -> bool:
        """Whether it is a scheme in which the operator reads and writes int8 tensors."""
        return self.scheme is not None and self.scheme.is_static


class Columns:
    """All columns of a space, operators first, then options.

    Args:
        space: The space.
        schemes: The schemes of each group that become columns, the default first; all schemes when left out.
    """

    def __init__(self, space: Space, schemes: Mapping[tuple[str, ...], Sequence[OpScheme]] | None = None) -> None:
        self.space = space
        found: list[Column] = []
        for decision, group in enumerate(space.groups):
            allowed = space.schemes(group) if schemes is None else schemes[group]
            found += [Column(decision, group, scheme, None, not k) for k, scheme in enumerate(allowed)]
        for decision, (name, values) in enumerate(space.options.items(), len(space.groups)):
            found += [Column(decision, (name,), None, value, not k) for k, value in enumerate(values)]
        self.all = tuple(found)
        self.owner = np.array([c.decision for c in found], float)
        self.is_static = np.array([c.is_static for c in found], bool)
        self._decision_of = {name: decision for decision, group in enumerate(space.groups) for name in group}

    def row(self, config: Config) -> Array:
        """A configuration as 0 and 1, shape (columns,)."""
        options = dict(config.options)
        return np.array(
            [
                float(
                    config.schemes[c.names[0]] == c.scheme if c.scheme is not None else options[c.names[0]] == c.value
                )
                for c in self.all
            ]
        )

    def config(self, row: Array) -> Config:
        """The inverse of `row`."""
        chosen = [c for c, x in zip(self.all, row, strict=True) if x > 0.5]
        config = self.space.default().with_ops({n: c.scheme for c in chosen if c.scheme is not None for n in c.names})
        for column in chosen:
            if column.value is not None:
                config = config.with_option(column.names[0], column.value)
        return config

    def by_decision(self, values: Mapping[str, float]) -> Array:
        """Sum of a value per operator over each decision's operators, shape (decisions of operators,)."""
        return np.array([sum(values.get(name, 0.0) for name in group) for group in self.space.groups])

    def costs(self, terms: LatencyTerms) -> Array:
        """Each column's cost by a latency model, shape (columns,).

        Raises:
            KeyError: the latency model has no term for a scheme.
        """
        return np.array(
            [
                sum(terms.ops[name][c.scheme] for name in c.names if name in terms.ops)
                if c.scheme is not None
                else terms.options.get((c.names[0], c.value), 0.0)  # type: ignore[arg-type]
                for c in self.all
            ]
        )

    def conversions(self, terms: LatencyTerms) -> tuple[ConversionEdge[int], ...]:
        """A latency model's conversion edges between decisions; operators outside the space count as float."""
        found = []
        for b in terms.conversion_edges:
            producer = self._decision_of.get(b.producer) if b.producer is not None else None
            inside = tuple(dict.fromkeys(self._decision_of[c] for c in b.consumers if c in self._decision_of))
            outside = any(c not in self._decision_of for c in b.consumers)
            found.append(
                ConversionEdge(
                    producer,
                    inside,
                    float_consumer=b.float_consumer or outside,
                    quantize=b.quantize,
                    dequantize=b.dequantize,
                )
            )
        return tuple(found)

    def converting(self, row: Array, conversions: tuple[ConversionEdge[int], ...]) -> float:
        """Cost of a configuration's conversions."""
        return paid(conversions, {c.decision for c, x in zip(self.all, row, strict=True) if x > 0.5 and c.is_static})

    def each(self, value: Callable[[Column], float]) -> Array:
        """One number per column, shape (columns,)."""
        return np.array([value(c) for c in self.all])
