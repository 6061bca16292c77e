"""Latency terms from profiles and timings: the linear model, what profiles lead to expect of it, and its fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.base import Profile
from nc_strategies.problem.latency import ConversionEdge, LatencyTerms
from nc_strategies.space import FLOAT, Config, OpScheme, Space
from nc_strategies.space.capabilities import OptionValue

Array = NDArray[np.float64]
Kind = tuple[str, str] | None
"""What of an operator's scheme may change its time: dtype and scheme of the activations; None for floating point."""

SHARED_SCALES = {"float": 0.3, "int8": 0.3, "conversion": 0.4, "clip": 1.0}
"""Standard deviation of a common factor on each sort of term: a profile stretches short operators more than long."""
TYPE_SCALE = 0.3
"""The same for the operators of one type."""
OWN_SCALE = {"float": 0.1, "int8": 0.1, "kind": 0.1, "conversion": 0.4, "clip": 0.4}
"""Standard deviation of each term on its own, relative to what is expected of it."""
SEEN = 0.2
"""The same for an edge's term that profiles show."""
FREE, HELD = 1e-6, 0.5
"""Ridge on what an operator takes in itself, and on what those around it change."""
ALL_FLOAT = 0.1
"""Standard deviation of what the all-float graph costs beside its terms, relative to fp32's latency."""
UNPROFILED = 5.0
"""Without profiles, terms are uncertain by so much more."""
FAR, REWEIGHTED = 2.0, 4
"""Standard deviations within which a timing counts in full, and how often the weights of the others are found anew."""
MANY = 12
"""Profiles that tell what profiling adds to a node."""
LEAST_LEFT = 0.05
"""Part of a profiled time that is left at least when what profiling adds is taken away."""
LEAST = 5e-4
"""Least standard deviation of a term, relative to fp32's latency."""
NOISE = 0.01
"""Relative standard deviation of a timing that interleaving leaves."""


def kind(scheme: OpScheme) -> Kind:
    """The part of a scheme that latency depends on.

    How a range was chosen only changes constants, and so does one scale a channel instead of one for all: both engines
    run the same kernels, and no difference was seen beyond the noise of timing.
    """
    return None if scheme.is_float else (scheme.activation.dtype, scheme.activation.scheme)


class Columns:
    """The linear model: which terms there are, and which of them a configuration pays.

    Args:
        space: What may be chosen.
        conversion_edges: Tensors between operators.
        far: See `indirect`.
    """

    def __init__(
        self, space: Space, conversion_edges: Iterable[ConversionEdge[str]], far: Iterable[ConversionEdge[str]] = ()
    ) -> None:
        self.space = space
        self.ops: dict[tuple[str, Kind], int] = {}
        self.kinds: dict[str, list[Kind]] = {}
        for name, op in space.ops.items():
            found = list(dict.fromkeys(kind(s) for s in (*op.schemes, FLOAT)))
            self.kinds[name] = found
            for one in found:
                self.ops[name, one] = 1 + len(self.ops)
        self.first_option = 1 + len(self.ops)
        self.options: dict[tuple[str, OptionValue], int] = {}
        for name, values in space.options.items():
            for value in values[1:]:
                self.options[name, value] = self.first_option + len(self.options)
        self.all_float = self.first_option + len(self.options)
        self.first_edge = self.all_float + 1
        self.conversion_edges = [
            edge for edge in (_within(edge, space) for edge in conversion_edges) if edge is not None
        ]
        self.direct = len(self.conversion_edges)
        self.conversion_edges += far
        self.count = self.first_edge + 4 * len(self.conversion_edges)
        self._rows: dict[Config, Array] = {}

    def row(self, config: Config) -> Array:
        """How often a configuration pays each term, shape (terms,)."""
        if config not in self._rows:
            self._rows[config] = self._row(config)
        return self._rows[config]

    def _row(self, config: Config) -> Array:
        row = np.zeros(self.count)
        row[0] = 1.0
        for name, scheme in config.ops:
            row[self.ops[name, kind(scheme)]] = 1.0
        row[self.all_float] = float(not config.int8_ops)
        for pair in config.options:
            if pair in self.options:
                row[self.options[pair]] = 1.0
        for index, edge in enumerate(self.conversion_edges):
            paid = np.array(edge.paid(config), float)
            if edge.single_scheme:
                paid[2] = 0.0
            row[self.first_edge + 4 * index : self.first_edge + 4 * index + 4] = paid
        return row

    def terms(self, values: Array, error: float) -> LatencyTerms:
        """The terms with given values."""
        ops = {
            name: {
                scheme: float(values[self.ops[name, kind(scheme)]]) for scheme in dict.fromkeys((*op.schemes, FLOAT))
            }
            for name, op in self.space.ops.items()
        }
        conversion_edges = []
        for index, edge in enumerate(self.conversion_edges):
            quantize, dequantize, requantize, clip = values[self.first_edge + 4 * index :][:4].tolist()
            conversion_edges.append(
                replace(
                    edge,
                    quantize=quantize,
                    dequantize=dequantize,
                    requantize=0.0 if edge.single_scheme else requantize,
                    clip=clip,
                )
            )
        options = {pair: float(values[column]) for pair, column in self.options.items()}
        return LatencyTerms(
            float(values[0]), ops, tuple(conversion_edges), options, error, float(values[self.all_float])
        )


def indirect(space: Space, conversion_edges: Iterable[ConversionEdge[str]]) -> tuple[ConversionEdge[str], ...]:
    """Links of operators that are not each other's neighbours.

    In which layout an engine runs an operator, and what it fuses it with, may hang on operators further away. A pair
    of operators with one between them, or with several that have no weights, stands for what the two cost more or less
    where one is in int8 and the other is not; an operator without weights and the nearest ones with weights on both of
    its sides, for what it costs more or less unless both do as it does: it then keeps their layout.
    """
    readers: dict[str, set[str]] = {}
    makers: dict[str, set[str]] = {}
    for edge in conversion_edges:
        if edge.producer in space.ops:
            for consumer in edge.consumers:
                if consumer in space.ops:
                    readers.setdefault(edge.producer, set()).add(consumer)
                    makers.setdefault(consumer, set()).add(edge.producer)
    found = {
        (name, second): ConversionEdge(name, (second,))
        for name, near in readers.items()
        for second in sorted({c for n in near for c in readers.get(n, ())} - near - {name})
    }
    around: list[ConversionEdge[str]] = []
    for name, op in space.ops.items():
        if op.parameters:
            continue
        before, behind = _weighted(name, makers, space), _weighted(name, readers, space)
        further = [*((one, name) for one in before), *((name, one) for one in behind)]
        for one, other in ((b, a) for b in before for a in behind if a != b):
            around.append(ConversionEdge(name, (one, other)))
            further.append((one, other))
        for one, other in further:
            if other not in readers.get(one, ()):
                found.setdefault((one, other), ConversionEdge(one, (other,)))
    return (*found.values(), *around)


def _weighted(name: str, near: Mapping[str, set[str]], space: Space) -> list[str]:
    """The nearest operators with weights on one side of an operator."""
    found: set[str] = set()
    seen, left = {name}, [name]
    while left:
        for other in near.get(left.pop(), set()) - seen:
            seen.add(other)
            if space.ops[other].parameters:
                found.add(other)
            else:
                left.append(other)
    return sorted(found)


def _within(edge: ConversionEdge[str], space: Space) -> ConversionEdge[str] | None:
    """A edge as far as its operators are in the space."""
    producer = edge.producer if edge.producer in space.ops else None
    consumers = tuple(c for c in edge.consumers if c in space.ops)
    floats = edge.float_consumer or len(consumers) < len(edge.consumers)
    if not consumers and (producer is None or not edge.clipped):
        return None
    return ConversionEdge(producer, consumers, edge.elements, floats, edge.single_scheme, edge.clipped)


@dataclass
class Prior:
    """What is expected of the terms before end-to-end timings: mean, own deviations, shared factors."""

    mean: Array
    own: Array
    shared: list[Array]

    def spread(self, rows: Array) -> Array:
        """The covariance of the terms times designs, shape (terms, rows)."""
        found: Array = self.own[:, None] ** 2 * rows.T
        if self.shared:
            factors = np.stack(self.shared, 1)
            found += factors @ (factors.T @ rows.T)
        return found


def unstretched(profiles: Sequence[Profile], seconds: Sequence[float]) -> list[Profile]:
    """Profiles without what profiling adds: as much to every node, and a factor, as caches are colder.

    The first is some microseconds, most of a short node's time: what the sums of many profiles have more for each node,
    or of few, what the cheapest node takes, since engines have nodes that do nothing; less where the graphs take hardly
    less without a profile. The second makes each profile's sum what its graph takes without: a machine that others use
    is not equally fast in all of them.

    Args:
        profiles: As the engine tells them.
        seconds: What the same graphs take without a profile.
    """
    if not profiles:
        return []
    sums = np.array([sum(time for time, _ in _nodes(p)) for p in profiles])
    counts = np.array([sum(nodes for _, nodes in _nodes(p)) for p in profiles], float)
    excess = float(counts @ (sums - np.array(seconds))) / max(1.0, float(counts @ counts))
    if len(profiles) >= MANY:
        each = _added(sums, counts, np.array(seconds))
    else:
        each = min((time / nodes for p in profiles for time, nodes in _nodes(p) if nodes), default=0.0)
    return [
        _scaled(profile, max(0.0, min(each, excess)), wanted) for profile, wanted in zip(profiles, seconds, strict=True)
    ]


def _added(sums: Array, counts: Array, seconds: Array) -> float:
    """What profiling adds to a node, in seconds: least squares, relative to what graphs take without a profile.

    The sums of profiles hold most of the noise, so that they are what is explained; the other way round, noise would be
    taken for time between nodes.

    Args:
        sums: Seconds of all nodes of each profile, shape (profiles,).
        counts: Nodes of each, shape (profiles,).
        seconds: What each graph takes without a profile, shape (profiles,).
    """
    design = np.stack([np.ones(len(seconds)), counts / seconds], 1)
    return float(np.linalg.lstsq(design, sums / seconds, rcond=None)[0][1])


def _scaled(profile: Profile, each: float, wanted: float) -> Profile:
    """A profile with `each` taken from every node, and then that sum."""

    def left(time: float, nodes: int) -> float:
        return max(time - each * nodes, LEAST_LEFT * time)

    factor = wanted / max(sum(left(time, nodes) for time, nodes in _nodes(profile)), 1e-300)
    return Profile(
        {name: factor * left(time, profile.nodes.get(name, 1)) for name, time in profile.ops.items()},
        tuple((elements, factor * left(time, 1)) for elements, time in profile.conversions),
        factor * left(profile.other, profile.other_nodes),
        profile.nodes,
        profile.other_nodes,
        profile.converted,
    )


def _nodes(profile: Profile) -> list[tuple[float, int]]:
    """Pairs (seconds, nodes that they are of)."""
    return [
        *((time, profile.nodes.get(name, 1)) for name, time in profile.ops.items()),
        *((time, 1) for _, time in profile.conversions),
        (profile.other, profile.other_nodes),
    ]


def expected(columns: Columns, profiles: Sequence[tuple[Config, Profile]], total: float, batch_size: int) -> Prior:
    """The prior that profiles give.

    Args:
        columns: The terms.
        profiles: Configurations and their profiles; without any, operators share the time by their sizes.
        total: fp32's latency in seconds.
        batch_size: Samples in a run.
    """
    mean, own = np.zeros(columns.count), np.full(columns.count, LEAST)
    sorts: dict[tuple[str, ...], Array] = {}

    def put(column: int, value: float, deviation: float, *groups: tuple[str, ...]) -> None:
        mean[column] = value
        own[column] = max(LEAST, deviation * abs(value))
        for group in groups:
            sorts.setdefault(group, np.zeros(columns.count))[column] = value

    times = _op_times(columns, profiles, total)
    effects = _effects(columns, profiles, total, batch_size)
    widen = 1.0 if profiles else UNPROFILED
    for (name, one), column in columns.ops.items():
        sort = "float" if one is None else "int8"
        put(
            column,
            effects.get(column, times[name, one]),
            OWN_SCALE[sort] * widen,
            (sort,),
            (sort, columns.space.ops[name].type),
        )
        if one not in (columns.kinds[name][0], None) and columns.kinds[name][0] is not None:
            # The default int8 scheme's term and what this one adds, so that both are known when one is.
            first = columns.ops[name, columns.kinds[name][0]]
            own[column] = max(LEAST, OWN_SCALE["kind"] * mean[first])
    for column in columns.options.values():
        own[column] = NOISE
    usual = _conversions(columns, profiles, total, batch_size)
    for index in range(len(columns.conversion_edges)):
        start = columns.first_edge + 4 * index
        for offset, sort in enumerate(("conversion", "conversion", "conversion", "clip")):
            seen = start + offset in effects
            put(
                start + offset,
                effects.get(start + offset, float(usual[start + offset])),
                SEEN if seen else OWN_SCALE[sort],
                (sort,),
                (sort, str(offset)),
            )
    mean[0] = sum(p.other for _, p in profiles) / len(profiles) / total if profiles else 0.0
    own[0] = 0.1
    for config, profile in profiles:
        if not config.int8_ops:
            # It may be fused in ways that others are not, and what it converts between layouts is paid by no boundary.
            mean[columns.all_float] = sum(t for t, _ in _nodes(profile)) / total - float(columns.row(config) @ mean)
    own[columns.all_float] = ALL_FLOAT
    shared = [factor * (SHARED_SCALES[group[0]] if len(group) == 1 else TYPE_SCALE) for group, factor in sorts.items()]
    return Prior(mean, own, shared)


def _op_times(
    columns: Columns, profiles: Sequence[tuple[Config, Profile]], total: float
) -> dict[tuple[str, Kind], float]:
    found: dict[tuple[str, Kind], float] = {}
    # An operator in a graph without int8 may be fused in ways that others do not see: such a profile counts last.
    ordered = sorted(profiles, key=lambda pair: not pair[0].int8_ops)
    for name in columns.space.ops:
        seen: dict[bool, list[float]] = {True: [], False: []}
        for config, profile in ordered:
            if config.int8_ops or not seen[True]:
                seen[config.schemes[name].is_float].append(profile.ops.get(name, 0.0) / total)
        means = {is_float: float(np.mean(values)) for is_float, values in seen.items() if values}
        for one in columns.kinds[name]:
            known = means.get(one is None)
            if known is not None:
                found[name, one] = known
    sizes = {name: op.elements + op.parameters for name, op in columns.space.ops.items()}
    whole = max(1, sum(sizes.values()))
    for name, one in columns.ops:
        share = 0.5 / len(sizes) + 0.5 * sizes[name] / whole
        found.setdefault((name, one), share * (1.0 if one is None else 0.5))
    return found


def _effects(
    columns: Columns, profiles: Sequence[tuple[Config, Profile]], total: float, batch_size: int
) -> dict[int, float]:
    """Terms by column, from the time of every operator and of the conversions of its result in every profile.

    Each is a sum of few terms: of the operator, and of the edges on both of its sides, as far as the configuration pays
    them. Ridge regression finds these; a edge's term is the sum of its parts in all that it touches.
    """
    told = [pair for pair in profiles if pair[0].int8_ops]
    if not told:
        return {}
    rows = np.stack([columns.row(config) for config, _ in told])
    usual = _conversions(columns, profiles, total, batch_size)
    paid = np.flatnonzero(rows.any(0))
    near: dict[str | None, list[int]] = {}
    made: dict[str | None, list[int]] = {}
    for index, edge in enumerate(columns.conversion_edges):
        start = columns.first_edge + 4 * index
        mine = paid[(paid >= start) & (paid < start + 4)].tolist()
        made.setdefault(edge.producer, []).extend(mine)
        for name in dict.fromkeys((edge.producer, *edge.consumers)):
            near.setdefault(name, []).extend(mine)
    found: dict[int, float] = {}

    def add(columns_of: Sequence[int], parts: Array) -> None:
        for column, part in zip(columns_of, parts.tolist(), strict=True):
            found[column] = found.get(column, 0.0) + part

    for name, sorts in columns.kinds.items():
        own = [c for c in (columns.ops[name, one] for one in sorts) if rows[:, c].any()]
        times = np.array([profile.ops.get(name, 0.0) for _, profile in told]) / total
        add([*own, *near.get(name, [])], _ridge(rows[:, own], rows[:, near.get(name, [])], times))
    if not any(profile.converted for _, profile in told):
        for column in (c for mine in made.values() for c in mine):
            found[column] = found.get(column, 0.0) + float(usual[column])
        return found
    for name, mine in made.items():
        spent = (
            np.array(
                [
                    sum(
                        seconds
                        for producer, (_, seconds) in zip(p.converted, p.conversions, strict=True)
                        if producer == name
                    )
                    for _, p in told
                ]
            )
            / total
        )
        others = [c for c in near[name] if c not in mine] if name is not None else []
        design = rows[:, [*mine, *others]]
        usually = np.concatenate([usual[mine], np.zeros(len(others))])
        add([*mine, *others], usually + _ridge(design[:, :0], design, spent - design @ usually))
    return found


def _ridge(free: Array, held: Array, values: Array) -> Array:
    """Coefficients of columns that are free, then of those that are held to zero; each shape (rows, columns)."""
    design = np.concatenate([free, held], 1)
    held_to = np.concatenate([np.full(free.shape[1], FREE), np.full(held.shape[1], HELD)])
    return np.linalg.solve(design.T @ design + np.diag(held_to), design.T @ values)


def _conversions(columns: Columns, profiles: Sequence[tuple[Config, Profile]], total: float, batch_size: int) -> Array:
    """What conversions cost by their size, at the columns of edges: a fixed part and one by the element."""
    found = np.zeros(columns.count)
    direct = slice(columns.first_edge, columns.first_edge + 4 * columns.direct)
    nodes = np.array([pair for _, profile in profiles for pair in profile.conversions], float).reshape(-1, 2)
    paid = sum(int(columns.row(config)[direct].sum()) for config, _ in profiles)
    fixed, slope = 0.005, 0.0
    if len(nodes) >= 3 and paid:
        design = np.stack([np.ones(len(nodes)), nodes[:, 0]], 1)
        (fixed, slope), *_ = np.linalg.lstsq(design, nodes[:, 1], rcond=None)
        fixed, slope = (fixed, slope) if fixed > 0 and slope > 0 else (float(nodes[:, 1].mean()), 0.0)
        fixed, slope = (float(part * len(nodes) / paid / total) for part in (fixed, slope))
    sizes = np.array([edge.elements for edge in columns.conversion_edges[: columns.direct]], float) * batch_size
    found[direct] = np.repeat(fixed + slope * sizes, 4)
    return found


def posterior(
    prior: Prior, rows: Array, ratios: Array, noise: Array, firm: NDArray[np.bool_] | None = None
) -> tuple[Array, Array]:
    """Terms after timings, by Bayesian linear regression, and each timing's error when it is left out.

    A timing that is further from what the others lead to expect of it than noise explains counts for less: its noise is
    taken to be larger, in a few rounds of reweighting.

    Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning", sections 2.1 and 5.4.2. Reweighting until
    the weights agree with the residuals is that of Huber's M-estimates ("Robust Statistics"); the weights here fall
    faster than his, with the fourth power of the distance.

    Args:
        prior: What was expected.
        rows: Design, shape (timings, terms).
        ratios: Latencies relative to fp32's, shape (timings,).
        noise: Their standard deviations, shape (timings,).
        firm: Which count in full in any case, shape (timings,); none when left out.

    Returns:
        Terms, shape (terms,), and predicted minus measured, shape (timings,).
    """
    spread, beyond = prior.spread(rows), ratios - rows @ prior.mean
    stretch, most = np.ones(len(noise)), np.inf if firm is None else np.where(firm, 1.0, np.inf)
    for _ in range(REWEIGHTED + 1):
        inverse = np.linalg.inv(rows @ spread + np.diag((stretch * noise) ** 2))
        weighed, tight = inverse @ beyond, np.diag(inverse)
        usual = 1 / tight + (1 - stretch**2) * noise**2
        stretch = np.clip((weighed / tight) ** 2 / usual / FAR**2, 1.0, most)
    return prior.mean + spread @ weighed, -weighed / tight
