"""Latency terms from profiles and timings: the linear model, its prior from profiles, and its posterior."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.base import Profile
from nc_strategies.problem.latency import ConversionEdge, LatencyTerms
from nc_strategies.space import FLOAT, Config, OpScheme, Space
from nc_strategies.space.capabilities import OptionValue
from nc_strategies.space.scheme import DYNAMIC, STATIC, WEIGHT_ONLY

Array = NDArray[np.float64]
Kind = tuple[str, str] | None
"""Part of an operator's scheme that affects its latency: dtype and scheme of the activations; None for float."""


@dataclass(frozen=True)
class SortScales:
    """Prior uncertainty of the terms of one category, relative to their prior means.

    Args:
        shared: Standard deviation of a factor that all terms of the category share.
        own: Standard deviation of each individual term.
    """

    shared: float
    own: float


@dataclass(frozen=True)
class PriorScales:
    """Prior uncertainty of the latency terms, and the constants of the fit.

    Standard deviations are relative to a term's prior mean or, where stated, to fp32's latency. Values without a stated
    reason were set by hand; ``benchmarks/latency_model.py`` evaluates the model as a whole.
    """

    float_ops: SortScales = SortScales(shared=0.3, own=0.1)
    """Operators in float. The shared factor is wide because profiling inflates short operators more than long ones."""
    int8_ops: SortScales = SortScales(shared=0.3, own=0.1)
    """Operators in int8; the shared factor is wide for the same reason."""
    conversions: SortScales = SortScales(shared=0.4, own=0.4)
    """Quantization, dequantization and requantization on an edge."""
    clips: SortScales = SortScales(shared=1.0, own=0.4)
    """Activation functions that run as separate nodes after an operator in symmetric int8."""
    op_type_shared: float = 0.3
    """Standard deviation of a factor that operators of one type, or edge terms of one category, share."""
    other_int8_own: float = 0.1
    """Standard deviation of the difference in cost between another int8 scheme and an operator's default one."""
    profiled_edge_own: float = 0.2
    """Standard deviation of an edge's term that profiles measure; it replaces that of the term's category."""
    unprofiled_factor: float = 5.0
    """Factor on the standard deviations of operators without profiles, whose times are estimated from their sizes."""
    least_deviation: float = 5e-4
    """Minimum standard deviation of a term, relative to fp32's latency: a term whose prior mean is zero may differ from
    zero."""
    option: float = 0.01
    """Standard deviation of a graph option's term, relative to fp32's latency: that of an interleaved timing."""
    all_float: float = 0.1
    """Standard deviation of the all-float graph's own term, relative to fp32's latency. The term exists because the
    engine fuses the all-float graph in ways that it does not fuse mixed graphs."""
    overhead: float = 0.1
    """Standard deviation of the time outside operators, relative to fp32's latency."""
    unprofiled_conversion: float = 0.005
    """Prior mean of a conversion's latency where profiles measure none, relative to fp32's latency."""
    op_ridge: float = 1e-6
    """Ridge penalty on an operator's own time when profiles are split into terms: just enough for a unique solution."""
    edge_ridge: float = 0.5
    """Ridge penalty on the effects of adjacent edges on an operator's time, which it shrinks toward zero."""
    profiles_for_node_overhead: int = 12
    """Minimum number of profiles for estimating the profiling overhead per node by regression. With fewer, the overhead
    is the time of the cheapest node."""
    least_time_left: float = 0.05
    """Minimum share of a profiled time that remains after the profiling overhead is subtracted: no time becomes
    negative."""
    outlier_deviations: float = 2.0
    """Standard deviations within which a timing has full weight: about the 95 % interval of a normal distribution."""
    reweighting_rounds: int = 4
    """Rounds of reweighting outlying timings."""

    def of(self, sort: str) -> SortScales:
        """The scales of ``float``, ``int8``, ``conversion`` or ``clip`` terms."""
        scales = {"float": self.float_ops, "int8": self.int8_ops, "conversion": self.conversions, "clip": self.clips}
        return scales[sort]


SCALES = PriorScales()


def kind(scheme: OpScheme) -> Kind:
    """The part of a scheme that latency depends on.

    The calibration method and the granularity of the scales (per channel or per tensor) change only constants. Both
    engines run the same kernels for them, and no difference beyond timing noise was measured. The size of a block of
    weights changes the kernel.
    """
    if scheme.mode == WEIGHT_ONLY:
        assert scheme.weight is not None
        return WEIGHT_ONLY, f"{scheme.weight.dtype} {scheme.weight.granularity}"
    if scheme.mode == DYNAMIC:
        return DYNAMIC, scheme.activation.dtype
    return None if scheme.is_float else (scheme.activation.dtype, scheme.activation.scheme)


def family(one: Kind) -> Kind:
    """Kinds that run about equally fast in one operator: all of static int8, and every other kind by itself."""
    return one if one is None or one[0] in (DYNAMIC, WEIGHT_ONLY) else (STATIC, "")


class Columns:
    """Columns of the linear model: its terms, and which of them a configuration incurs.

    Args:
        space: Search space.
        conversion_edges: Tensors between operators.
        far: Edges between operators that are not neighbours; see `indirect`.
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
        """How often a configuration incurs each term, shape (terms,)."""
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
        """Build the latency terms from the values of all columns."""
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
    """Edges between operators that are not direct neighbours.

    The layout in which an engine runs an operator, and its fusions, may depend on operators further away. Two sets of
    edges model this dependency:

    - Two operators with one operator between them, or with several that have no weights. The edge's terms are the
      change in cost if one of the two is in int8 and the other is not.
    - An operator without weights and the nearest operators with weights on both of its sides. The edge's terms are the
      change in cost unless all three have the same precision, in which case the operator keeps their layout.
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
    """Operators of a space that read each operator's result, and operators whose results each operator reads."""
    readers: dict[str, set[str]] = {}
    makers: dict[str, set[str]] = {}
    for edge in conversion_edges:
        if edge.producer in space.ops:
            for consumer in (c for c in edge.consumers if c in space.ops):
                readers.setdefault(edge.producer, set()).add(consumer)
                makers.setdefault(consumer, set()).add(edge.producer)
    return readers, makers


def _second_readers(readers: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Pairs of operators that have one operator between them and are not direct neighbours."""
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
    """An edge restricted to the operators of the space; None if nothing of it remains."""
    producer = edge.producer if edge.producer in space.ops else None
    consumers = tuple(c for c in edge.consumers if c in space.ops)
    floats = edge.float_consumer or len(consumers) < len(edge.consumers)
    if not consumers and (producer is None or not edge.clipped):
        return None
    return ConversionEdge(producer, consumers, edge.elements, floats, edge.single_scheme, edge.clipped)


@dataclass
class Prior:
    """Prior of the terms before end-to-end timings: means, individual deviations, shared factors."""

    mean: Array
    own: Array
    shared: list[Array]

    def spread(self, rows: Array) -> Array:
        """Covariance matrix of the terms times the transposed design matrix, shape (terms, rows)."""
        found: Array = self.own[:, None] ** 2 * rows.T
        if self.shared:
            factors = np.stack(self.shared, 1)
            found += factors @ (factors.T @ rows.T)
        return found


def unstretched(profiles: Sequence[Profile], seconds: Sequence[float]) -> list[Profile]:
    """Remove the profiling overhead from profiles: a constant per node, and a factor for colder caches.

    The constant is a few microseconds, most of a short node's time. With many profiles, regression on the number of
    nodes estimates it. With few, it is the time of the cheapest node, since engines have nodes that do nothing. It is
    at most the mean excess per node over the latencies without profiling. The factor scales the sum of each profile to
    its graph's latency without profiling, because the speed of a shared machine differs between profiles.

    Args:
        profiles: As the engine reports them.
        seconds: Latencies of the same graphs without profiling.
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
    """Profiling overhead per node in seconds, by least squares relative to the latencies without profiling.

    The sums of the profiles are the dependent variable because they hold most of the noise. The other way round, noise
    would be attributed to the time between nodes.

    Args:
        sums: Seconds of all nodes of each profile, shape (profiles,).
        counts: Number of nodes of each profile, shape (profiles,).
        seconds: Latency of each graph without profiling, shape (profiles,).
    """
    design = np.stack([np.ones(len(seconds)), counts / seconds], 1)
    return float(np.linalg.lstsq(design, sums / seconds, rcond=None)[0][1])


def _scaled(profile: Profile, each: float, wanted: float) -> Profile:
    """A profile with `each` seconds subtracted from every node, then scaled to the sum `wanted`."""

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
    """Pairs (seconds, number of nodes that took them)."""
    return [
        *((time, profile.nodes.get(name, 1)) for name, time in profile.ops.items()),
        *((time, 1) for _, time in profile.conversions),
        (profile.other, profile.other_nodes),
    ]


def expected(columns: Columns, profiles: Sequence[tuple[Config, Profile]], total: float, batch_size: int) -> Prior:
    """Prior of the terms, from profiles.

    Args:
        columns: Columns of the linear model.
        profiles: Configurations and their profiles; without any, latency is distributed by operator size.
        total: fp32's latency in seconds.
        batch_size: Samples per run.
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
            # The all-float graph may be fused differently, and no edge covers its conversions between layouts.
            mean[columns.all_float] = sum(t for t, _ in _nodes(profile)) / total - float(columns.row(config) @ mean)
    own[columns.all_float] = SCALES.all_float
    return Prior(mean, own, prior.shared())


class _Expectations:
    """Prior means and individual deviations of terms, and the categories of terms that share a factor.

    Args:
        columns: Columns of the linear model.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.mean, self.own = np.zeros(columns.count), np.full(columns.count, SCALES.least_deviation)
        self._sorts: dict[tuple[str, ...], Array] = {}

    def put(self, column: int, value: float, deviation: float, *groups: tuple[str, ...]) -> None:
        """Set a term's prior mean, its individual relative deviation, and the categories whose factors it shares."""
        self.mean[column] = value
        self.own[column] = max(SCALES.least_deviation, deviation * abs(value))
        for group in groups:
            self._sorts.setdefault(group, np.zeros(self.columns.count))[column] = value

    def shared(self) -> list[Array]:
        """Effect of one standard deviation of each shared factor on all terms; shape (terms,) each."""
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
        usual = columns.kinds[name][0]
        if one not in (usual, None) and usual is not None and family(one) == family(usual):
            # The term is that of the default int8 scheme plus a small difference: a timing of either informs both.
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
    # A graph without int8 may be fused differently: its profile is used only where no other has the operator in float.
    ordered = sorted(profiles, key=lambda pair: not pair[0].int8_ops)
    for name in columns.space.ops:
        seen: dict[Kind, list[float]] = {}
        for config, profile in ordered:
            if config.int8_ops or None not in seen:
                mine = family(kind(config.schemes[name]))
                seen.setdefault(mine, []).append(profile.ops.get(name, 0.0) / total)
        means = {one: float(np.mean(values)) for one, values in seen.items()}
        for one in columns.kinds[name]:
            known = means.get(family(one))
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
    """Terms by column, from the profiled times of every operator and of the conversions of its result.

    Each time is a sum of a few terms: that of the operator, and those of its adjacent edges that the configuration
    incurs. Ridge regression estimates each summand. An edge's term is the sum of its parts over all operators that the
    edge connects.
    """
    with_int8 = [pair for pair in profiles if pair[0].int8_ops]
    if not with_int8:
        return {}
    rows = np.stack([columns.row(config) for config, _ in with_int8])
    seen = [profile for _, profile in with_int8]
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
"""Columns of edges by operator name; None stands for the model's inputs."""


def _edge_terms(columns: Columns, paid: NDArray[np.intp]) -> tuple[Near, Near]:
    """Columns of the edges adjacent to each operator, and of the edges that carry its result.

    Args:
        columns: Columns of the linear model.
        paid: Columns that at least one profiled configuration incurs; all others are left out.
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
    """Pairs (column, part of its term), from the times of the operators; `rows` is the profiles' design matrix."""
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
    """Seconds that a profile attributes to conversions of an operator's result."""
    return sum(
        seconds
        for producer, (_, seconds) in zip(profile.converted, profile.conversions, strict=True)
        if producer == name
    )


def _ridge(free: Array, held: Array, values: Array) -> Array:
    """Coefficients of the free columns, then of those shrunk toward zero; each input has shape (rows, columns)."""
    design = np.concatenate([free, held], 1)
    held_to = np.concatenate([np.full(free.shape[1], SCALES.op_ridge), np.full(held.shape[1], SCALES.edge_ridge)])
    return np.linalg.solve(design.T @ design + np.diag(held_to), design.T @ values)


def _conversions(columns: Columns, profiles: Sequence[tuple[Config, Profile]], total: float, batch_size: int) -> Array:
    """Cost of conversions by tensor size, at the columns of edges: a constant plus a cost per element."""
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
    """Posterior means of the terms, by Bayesian linear regression, and the leave-one-out error of each timing.

    A timing that deviates from its leave-one-out prediction by more than noise explains gets less weight: its noise is
    increased in a few rounds of reweighting.

    Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning", sections 2.1 and 5.4.2. Reweighting until
    the weights agree with the residuals follows Huber's M-estimates ("Robust Statistics"). The weights here fall faster
    than Huber's, with the fourth power of the distance.

    Args:
        prior: Prior of the terms.
        rows: Design matrix, shape (timings, terms).
        ratios: Latencies relative to fp32's, shape (timings,).
        noise: Standard deviations of the ratios, shape (timings,).
        firm: Timings that always have full weight, shape (timings,); none by default.

    Returns:
        Terms, shape (terms,), and leave-one-out predictions minus measured ratios, shape (timings,).
    """
    spread, beyond = prior.spread(rows), ratios - rows @ prior.mean
    stretch, most = np.ones(len(noise)), np.inf if firm is None else np.where(firm, 1.0, np.inf)
    for _ in range(SCALES.reweighting_rounds + 1):
        inverse = np.linalg.inv(rows @ spread + np.diag((stretch * noise) ** 2))
        weighed, tight = inverse @ beyond, np.diag(inverse)
        usual = 1 / tight + (1 - stretch**2) * noise**2
        stretch = np.clip((weighed / tight) ** 2 / usual / SCALES.outlier_deviations**2, 1.0, most)
    return prior.mean + spread @ weighed, -weighed / tight
