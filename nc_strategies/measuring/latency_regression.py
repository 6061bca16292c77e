"""Latency terms from profiles and timings: the linear model, what profiles lead to expect of it, and its fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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


@dataclass(frozen=True)
class SortScales:
    """How uncertain the terms of one sort are before timings, relative to what is expected of them.

    Args:
        shared: Standard deviation of a factor that all terms of the sort have in common.
        own: Standard deviation of each term on its own.
    """

    shared: float
    own: float


@dataclass(frozen=True)
class PriorScales:
    """How firmly profiles are believed, and how timings correct them.

    Standard deviations are relative to what is expected of a term, or, where it says so, to fp32's latency. Values
    without a reason beside them were set by hand; ``benchmarks/latency_model.py`` measures the model as a whole.
    """

    float_ops: SortScales = SortScales(shared=0.3, own=0.1)
    """Operators in floating point. The factor is wide since a profile stretches short operators more than long ones."""
    int8_ops: SortScales = SortScales(shared=0.3, own=0.1)
    """Operators in int8, likewise."""
    conversions: SortScales = SortScales(shared=0.4, own=0.4)
    """Quantization, dequantization and requantization at a edge."""
    clips: SortScales = SortScales(shared=1.0, own=0.4)
    """Activation functions that an operator in symmetric int8 leaves to a node of their own."""
    op_type_shared: float = 0.3
    """Standard deviation of a factor that operators of one type, or edges of one kind, have in common."""
    other_int8_own: float = 0.1
    """Standard deviation of what a further int8 scheme costs beside an operator's default one."""
    profiled_edge_own: float = 0.2
    """Standard deviation of a edge's term that profiles tell, in place of that of its sort."""
    unprofiled_factor: float = 5.0
    """Factor on the deviations of operators without profiles, whose times are then guessed from their sizes."""
    least_deviation: float = 5e-4
    """Least standard deviation of a term, relative to fp32's latency: one that is expected to be zero may be more."""
    option: float = 0.01
    """Standard deviation of a graph option's term, relative to fp32's latency: that of an interleaved timing."""
    all_float: float = 0.1
    """Standard deviation of what the all-float graph costs beside its terms, relative to fp32's latency: it is fused in
    ways that mixed graphs are not."""
    overhead: float = 0.1
    """Standard deviation of the time outside of operators, relative to fp32's latency."""
    unprofiled_conversion: float = 0.005
    """Expected latency of a conversion where profiles tell none, relative to fp32's latency."""
    op_ridge: float = 1e-6
    """Ridge on an operator's own time when profiles are split into terms: free, only kept from being undetermined."""
    edge_ridge: float = 0.5
    """Ridge on what the edges around an operator change of its time, which are held to zero."""
    profiles_for_node_overhead: int = 12
    """Profiles from which on a regression tells what profiling adds to a node; with fewer, the cheapest node does."""
    least_time_left: float = 0.05
    """Share of a profiled time that is left at least when what profiling adds is taken away: none becomes negative."""
    outlier_deviations: float = 2.0
    """Standard deviations within which a timing counts in full: about the 95 % interval of a normal distribution."""
    reweighting_rounds: int = 4
    """How often the weights of outlying timings are found anew."""

    def of(self, sort: str) -> SortScales:
        """The scales of ``float``, ``int8``, ``conversion`` or ``clip`` terms."""
        scales = {"float": self.float_ops, "int8": self.int8_ops, "conversion": self.conversions, "clip": self.clips}
        return scales[sort]


SCALES = PriorScales()


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
    readers, makers = _neighbours(space, conversion_edges)
    found = {pair: ConversionEdge(pair[0], pair[1:]) for pair in _second_readers(readers)}
    around: list[ConversionEdge[str]] = []
    for name in (name for name, op in space.ops.items() if not op.parameters):
        before, behind = _weighted(name, makers, space), _weighted(name, readers, space)
        across = [(b, a) for b in before for a in behind if a != b]
        around += [ConversionEdge(name, pair) for pair in across]
        for one, other in (*((b, name) for b in before), *((name, a) for a in behind), *across):
            if other not in readers.get(one, ()):
                found.setdefault((one, other), ConversionEdge(one, (other,)))
    return (*found.values(), *around)


def _neighbours(
    space: Space, conversion_edges: Iterable[ConversionEdge[str]]
) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Which operators of a space read an operator's result, and whose results an operator reads."""
    readers: dict[str, set[str]] = {}
    makers: dict[str, set[str]] = {}
    for edge in conversion_edges:
        if edge.producer in space.ops:
            for consumer in (c for c in edge.consumers if c in space.ops):
                readers.setdefault(edge.producer, set()).add(consumer)
                makers.setdefault(consumer, set()).add(edge.producer)
    return readers, makers


def _second_readers(readers: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Pairs of operators with one between them that do not read each other directly."""
    for name, near in readers.items():
        for second in sorted({c for n in near for c in readers.get(n, ())} - near - {name}):
            yield name, second


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
    if len(profiles) >= SCALES.profiles_for_node_overhead:
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
        return max(time - each * nodes, SCALES.least_time_left * time)

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
    prior = _Expectations(columns)
    effects = _effects(columns, profiles, total, batch_size)
    widen = 1.0 if profiles else SCALES.unprofiled_factor
    _expect_operators(prior, _op_times(columns, profiles, total), effects, widen)
    for column in columns.options.values():
        prior.own[column] = SCALES.option
    _expect_conversion_edges(prior, _conversions(columns, profiles, total, batch_size), effects)
    mean, own = prior.mean, prior.own
    mean[0] = sum(p.other for _, p in profiles) / len(profiles) / total if profiles else 0.0
    own[0] = SCALES.overhead
    for config, profile in profiles:
        if not config.int8_ops:
            # It may be fused in ways that others are not, and what it converts between layouts is paid by no boundary.
            mean[columns.all_float] = sum(t for t, _ in _nodes(profile)) / total - float(columns.row(config) @ mean)
    own[columns.all_float] = SCALES.all_float
    return Prior(mean, own, prior.shared())


class _Expectations:
    """Means and own deviations of terms, and the sorts of terms that share a factor.

    Args:
        columns: The terms.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.mean, self.own = np.zeros(columns.count), np.full(columns.count, SCALES.least_deviation)
        self._sorts: dict[tuple[str, ...], Array] = {}

    def put(self, column: int, value: float, deviation: float, *groups: tuple[str, ...]) -> None:
        """Expect a value of a term, with a relative deviation of its own and the factors of some sorts of terms."""
        self.mean[column] = value
        self.own[column] = max(SCALES.least_deviation, deviation * abs(value))
        for group in groups:
            self._sorts.setdefault(group, np.zeros(self.columns.count))[column] = value

    def shared(self) -> list[Array]:
        """One standard deviation of each shared factor, in all terms; shape (terms,) each."""
        return [
            factor * (SCALES.of(group[0]).shared if len(group) == 1 else SCALES.op_type_shared)
            for group, factor in self._sorts.items()
        ]


def _expect_operators(
    prior: _Expectations, times: Mapping[tuple[str, Kind], float], effects: Mapping[int, float], widen: float
) -> None:
    columns = prior.columns
    for (name, one), column in columns.ops.items():
        sort = "float" if one is None else "int8"
        prior.put(
            column,
            effects.get(column, times[name, one]),
            SCALES.of(sort).own * widen,
            (sort,),
            (sort, columns.space.ops[name].type),
        )
        if one not in (columns.kinds[name][0], None) and columns.kinds[name][0] is not None:
            # The default int8 scheme's term and what this one adds, so that both are known when one is.
            first = columns.ops[name, columns.kinds[name][0]]
            prior.own[column] = max(SCALES.least_deviation, SCALES.other_int8_own * prior.mean[first])


def _expect_conversion_edges(prior: _Expectations, usual: Array, effects: Mapping[int, float]) -> None:
    columns = prior.columns
    for index in range(len(columns.conversion_edges)):
        start = columns.first_edge + 4 * index
        for offset, sort in enumerate(("conversion", "conversion", "conversion", "clip")):
            seen = start + offset in effects
            prior.put(
                start + offset,
                effects.get(start + offset, float(usual[start + offset])),
                SCALES.profiled_edge_own if seen else SCALES.of(sort).own,
                (sort,),
                (sort, str(offset)),
            )


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
    seen = [profile for _, profile in told]
    usual = _conversions(columns, profiles, total, batch_size)
    near, made = _edge_terms(columns, np.flatnonzero(rows.any(0)))
    parts = [*_operator_parts(columns, seen, rows, near, total)]
    if any(profile.converted for profile in seen):
        parts += _conversion_parts(seen, rows, near, made, usual, total)
    else:
        parts += [(column, float(usual[column])) for mine in made.values() for column in mine]
    found: dict[int, float] = {}
    for column, part in parts:
        found[column] = found.get(column, 0.0) + part
    return found


Near = Mapping[str | None, Sequence[int]]
"""Columns of edges by an operator's name; None stands for the model's inputs."""


def _edge_terms(columns: Columns, paid: NDArray[np.intp]) -> tuple[Near, Near]:
    """Columns that some profile pays, of the edges an operator is at, and of those that its result takes.

    Args:
        columns: The terms.
        paid: Columns that some profile pays.
    """
    near: dict[str | None, list[int]] = {}
    made: dict[str | None, list[int]] = {}
    for index, edge in enumerate(columns.conversion_edges):
        start = columns.first_edge + 4 * index
        mine = paid[(paid >= start) & (paid < start + 4)].tolist()
        made.setdefault(edge.producer, []).extend(mine)
        for name in dict.fromkeys((edge.producer, *edge.consumers)):
            near.setdefault(name, []).extend(mine)
    return near, made


def _operator_parts(
    columns: Columns, profiles: Sequence[Profile], rows: Array, near: Near, total: float
) -> Iterator[tuple[int, float]]:
    """Pairs (column, part of its term), from the times of the operators; `rows` is the design of the profiles."""
    for name, sorts in columns.kinds.items():
        own = [c for c in (columns.ops[name, one] for one in sorts) if rows[:, c].any()]
        around = list(near.get(name, ()))
        times = np.array([profile.ops.get(name, 0.0) for profile in profiles]) / total
        yield from zip([*own, *around], _ridge(rows[:, own], rows[:, around], times).tolist(), strict=True)


def _conversion_parts(
    profiles: Sequence[Profile], rows: Array, near: Near, made: Near, usual: Array, total: float
) -> Iterator[tuple[int, float]]:
    """Pairs (column, part of its term), from the times of the conversions of each operator's result."""
    for name, mine in made.items():
        spent = np.array([_spent_on(profile, name) for profile in profiles]) / total
        others = [c for c in near[name] if c not in mine] if name is not None else []
        design = rows[:, [*mine, *others]]
        usually = np.concatenate([usual[list(mine)], np.zeros(len(others))])
        beyond = _ridge(design[:, :0], design, spent - design @ usually)
        yield from zip([*mine, *others], (usually + beyond).tolist(), strict=True)


def _spent_on(profile: Profile, name: str | None) -> float:
    """Seconds that a profile tells of conversions of an operator's result."""
    return sum(
        seconds
        for producer, (_, seconds) in zip(profile.converted, profile.conversions, strict=True)
        if producer == name
    )


def _ridge(free: Array, held: Array, values: Array) -> Array:
    """Coefficients of columns that are free, then of those that are held to zero; each shape (rows, columns)."""
    design = np.concatenate([free, held], 1)
    held_to = np.concatenate([np.full(free.shape[1], SCALES.op_ridge), np.full(held.shape[1], SCALES.edge_ridge)])
    return np.linalg.solve(design.T @ design + np.diag(held_to), design.T @ values)


def _conversions(columns: Columns, profiles: Sequence[tuple[Config, Profile]], total: float, batch_size: int) -> Array:
    """What conversions cost by their size, at the columns of edges: a fixed part and one by the element."""
    found = np.zeros(columns.count)
    direct = slice(columns.first_edge, columns.first_edge + 4 * columns.direct)
    nodes = np.array([pair for _, profile in profiles for pair in profile.conversions], float).reshape(-1, 2)
    paid = sum(int(columns.row(config)[direct].sum()) for config, _ in profiles)
    fixed, slope = SCALES.unprofiled_conversion, 0.0
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
    for _ in range(SCALES.reweighting_rounds + 1):
        inverse = np.linalg.inv(rows @ spread + np.diag((stretch * noise) ** 2))
        weighed, tight = inverse @ beyond, np.diag(inverse)
        usual = 1 / tight + (1 - stretch**2) * noise**2
        stretch = np.clip((weighed / tight) ** 2 / usual / SCALES.outlier_deviations**2, 1.0, most)
    return prior.mean + spread @ weighed, -weighed / tight
