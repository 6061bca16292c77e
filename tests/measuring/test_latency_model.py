"""The latency model: what it recovers when the truth is known, and on a backend whose times are known."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from nc_strategies.backends.base import Profile
from nc_strategies.backends.profiling import NodeTimes, summarise
from nc_strategies.errors import OutOfTimeError
from nc_strategies.measuring import latency_model
from nc_strategies.measuring.latency_model import PLAN, _fit, _halves, _how_many, _Timed, fit_latency
from nc_strategies.measuring.latency_regression import Columns, expected, indirect, kind, posterior, unstretched
from nc_strategies.models import ModelSource
from nc_strategies.problem.latency import ConversionEdge, LatencyTerms
from nc_strategies.space import FLOAT, Capabilities, OpCapability, OpScheme, Space, TensorScheme
from nc_strategies.testing.toy import SIMULATED, ToyBackend, ToySettings, toy_time

ASYM = OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8", "sym", "per_channel"))
KL = replace(ASYM, activation=TensorScheme("uint8", "asym", algorithm="kl"))
SYM = replace(ASYM, activation=TensorScheme("int8", "sym"))
NAMES = [f"op{i:02d}" for i in range(12)]


def space_of(schemes=(ASYM, KL, SYM, FLOAT), names=NAMES, parameters=lambda name: 100):
    return Space(
        Capabilities(tuple(OpCapability(n, "Conv", schemes, parameters=parameters(n), elements=1000) for n in names))
    )


def conversion_edges_of(names=NAMES):
    """A chain with a shortcut over two operators."""
    consumers = [(name, *((names[i + 3],) if i == 2 else ())) for i, name in enumerate(names[1:])]
    return tuple(
        ConversionEdge(a, readers, 1000, False, False, frozenset({("int8", "sym")}))
        for a, readers in zip(names, consumers, strict=False)
    )


def true_terms(rng):
    """Drawn terms: float costs 1 in all."""
    costs = rng.lognormal(0, 0.6, len(NAMES))
    costs /= costs.sum()
    gains = rng.uniform(0.25, 0.7, len(NAMES))
    ops = {
        name: {FLOAT: cost, ASYM: cost * gain, KL: cost * gain, SYM: cost * gain * 1.1}
        for name, cost, gain in zip(NAMES, costs.tolist(), gains.tolist(), strict=True)
    }
    conversion_edges = tuple(
        replace(k, float_consumer=False, quantize=0.015, dequantize=0.01, requantize=0.008, clip=0.01)
        for k in conversion_edges_of()
    )
    return LatencyTerms(0.0, ops, conversion_edges)


def profile_of(terms, config, rng):
    """What a profiler would say: off by a factor of its own for every operator, and stretched."""
    ops = {name: 1.2e-3 * terms.ops[name][scheme] * rng.lognormal(0, 0.1) for name, scheme in config.ops}
    paid = sum(sum(b.paid(config)) for b in terms.conversion_edges)
    return Profile(ops, tuple((1000, 1.2e-3 * 0.012) for _ in range(paid)), 1e-5)


def test_a_edge_is_paid_where_int8_meets_float_and_once_for_several_readers():
    space = space_of(names=("a", "b", "c"))
    edge = ConversionEdge(
        "a", ("b", "c"), clipped=frozenset({("int8", "sym")}), quantize=0.3, dequantize=0.2, requantize=0.1, clip=0.05
    )
    default = space.default()
    assert edge.cost(space.all_float()) == 0
    assert edge.cost(default) == 0
    assert edge.cost(space.all_float().with_ops({"b": ASYM, "c": ASYM})) == pytest.approx(0.3)
    assert edge.cost(default.with_op("b")) == pytest.approx(0.2)
    assert edge.cost(default.with_op("b", "c")) == pytest.approx(0.2)
    assert edge.cost(default.with_ops({"c": KL})) == pytest.approx(0.1)
    assert edge.cost(default.with_ops({"b": SYM, "c": SYM})) == pytest.approx(0.05)
    assert edge.cost(default.with_ops({"a": SYM}).with_op("b", "c")) == pytest.approx(0.25)
    assert replace(edge, producer=None).cost(default) == pytest.approx(0.3)
    assert replace(edge, float_consumer=True).cost(default) == pytest.approx(0.2)


def test_rows_and_terms_are_the_same_model():
    space, rng = space_of(), np.random.default_rng(0)
    columns = Columns(space, conversion_edges_of())
    values = rng.normal(size=columns.count)
    terms = columns.terms(values, 0.0)
    for _ in range(20):
        config = space.sample(rng)
        assert terms(config) == pytest.approx(float(columns.row(config) @ values))


def test_a_graph_without_int8_has_a_term_of_its_own():
    space = space_of()
    columns = Columns(space, conversion_edges_of())
    terms = columns.terms(np.ones(columns.count), 0.0)
    assert terms.all_float == 1.0
    assert terms(space.all_float()) == pytest.approx(1 + 1 + len(NAMES))
    assert terms(space.default()) == pytest.approx(1 + len(NAMES))


def test_schemes_that_only_change_constants_share_a_term():
    per_tensor = replace(ASYM, weight=TensorScheme("int8", "sym", "per_tensor"))
    assert kind(ASYM) == kind(KL) == kind(per_tensor) != kind(SYM)
    assert kind(FLOAT) is None


def test_conversion_edges_outside_the_space_become_float():
    columns = Columns(
        space_of(names=("b", "c")),
        (ConversionEdge("a", ("b", "c")), ConversionEdge("b", ("c", "z")), ConversionEdge("c", ("z",))),
    )
    assert [(k.producer, k.consumers, k.float_consumer) for k in columns.conversion_edges] == [
        (None, ("b", "c"), False),
        ("b", ("c",), True),
    ]


def test_what_profiling_adds_to_every_node_is_taken_away():
    # A node that does nothing, and one that the engine runs as three; 3 us a node, and a quarter more all over.
    rng = np.random.default_rng(5)
    true = [{"nothing": 0.0, **dict(zip("abcd", rng.uniform(1e-6, 50e-6, 4).tolist(), strict=True))} for _ in range(4)]
    nodes, conversion = {"c": 3}, 2e-6

    def profiled(times):
        ops = {name: 1.25 * t + 3e-6 * nodes.get(name, 1) for name, t in times.items()}
        return Profile(ops, ((10, 1.25 * conversion + 3e-6),) * 2, 3e-6 * 4, nodes, 4)

    found = unstretched([profiled(t) for t in true], [sum(t.values()) + 2 * conversion for t in true])
    for times, profile in zip(true, found, strict=True):
        for name, seconds in times.items():
            assert profile.ops[name] == pytest.approx(seconds, abs=0.3e-6)
        assert [t for _, t in profile.conversions] == pytest.approx([conversion] * 2, abs=0.3e-6)
        assert profile.other == pytest.approx(0.0, abs=1e-6)


def test_many_profiles_tell_what_profiling_adds_though_each_is_of_another_moment():
    # One node seems to do nothing, and a machine that others use stretches each profile differently.
    def errors(seed):
        rng = np.random.default_rng(seed)
        counts = [{name: int(rng.integers(1, 20)) for name in "abcd"} for _ in range(40)]
        wanted = [{name: float(rng.uniform(1e-5, 1e-4)) for name in nodes} for nodes in counts]
        profiles = [
            Profile({name: stretch * (1.3 * t + 2e-6 * nodes[name]) for name, t in one.items()}, (), 0.0, nodes)
            for one, nodes, stretch in zip(wanted, counts, rng.lognormal(0, 0.2, 40), strict=True)
        ]
        profiles[0].ops["fused into another"] = 0.0
        seconds = [sum(one.values()) for one in wanted]
        stretched = [
            Profile({name: t * second / sum(profile.ops.values()) for name, t in profile.ops.items()})
            for profile, second in zip(profiles, seconds, strict=True)
        ]
        return [
            np.mean(
                [
                    abs(profile.ops[name] / one[name] - 1)
                    for profile, one in zip(found, wanted, strict=True)
                    for name in "abcd"
                ]
            )
            for found in (unstretched(profiles, seconds), stretched)
        ]

    found, only_stretched = np.mean([errors(seed) for seed in range(6)], 0)
    assert found < 0.6 * only_stretched


def test_profiles_that_say_less_than_their_graphs_take_are_only_stretched():
    rng = np.random.default_rng(0)
    nodes = [{name: int(rng.integers(1, 6)) for name in "abcd"} for _ in range(40)]
    profiles = [Profile({name: float(rng.uniform(1e-5, 1e-4)) for name in "abcd"}, (), 0.0, one) for one in nodes]
    seconds = [1.2 * sum(p.ops.values()) + 5e-6 * sum(p.nodes.values()) for p in profiles]
    for before, after, wanted in zip(profiles, unstretched(profiles, seconds), seconds, strict=True):
        factor = wanted / sum(before.ops.values())
        assert after.ops == pytest.approx({name: factor * time for name, time in before.ops.items()})


def test_a_profile_that_says_what_a_run_takes_is_left_as_it_is():
    profiles = [Profile({"short": 1e-3, "long": 5e-3}, ((10, 1e-4),)), Profile({"short": 2e-3, "long": 4e-3})]
    found = unstretched(profiles, [6.1e-3, 6e-3])
    assert found[0].ops == pytest.approx(profiles[0].ops)
    assert found[1].ops == pytest.approx(profiles[1].ops)
    assert unstretched([], []) == []


def test_a_profile_taken_while_the_machine_was_slow_counts_for_what_its_graph_takes():
    # Nodes that do nothing tell that profiling adds nothing to a node.
    slow, usual = Profile({"a": 4e-3, "b": 8e-3, "c": 0.0}), Profile({"a": 1e-3, "b": 2e-3, "c": 0.0}, ((10, 2e-3),))
    found = unstretched([slow, usual], [3e-3, 5e-3])
    assert found[0].ops == pytest.approx({"a": 1e-3, "b": 2e-3, "c": 0.0})
    assert found[1].ops == pytest.approx({"a": 1e-3, "b": 2e-3, "c": 0.0})


@pytest.mark.parametrize("seen", [True, False])
def test_a_conversion_that_a_profile_shows_is_expected_to_cost_what_it_did(seen):
    space = space_of(names=("a", "b", "c"))
    columns = Columns(space, (ConversionEdge("a", ("b",), 1000), ConversionEdge("b", ("c",), 1000)))
    config = space.default().with_op("b")
    profile = Profile(
        dict.fromkeys("abc", 1e-3),
        ((1000, 1e-4), (1000, 2e-4), (1000, 4e-4)),
        0.0,
        converted=("a", "a", "b") if seen else (),
    )
    mean = expected(columns, [(config, profile)], 1e-2, 1).mean[columns.first_edge :]
    # a is dequantized, b quantized, by two nodes and by one; what was not seen costs as usual.
    dequantize_a, quantize_b = mean[1], mean[4]
    if seen:
        assert (dequantize_a, quantize_b) == pytest.approx((0.03, 0.04), rel=0.15)
        assert mean[0] == mean[5] != pytest.approx(0.03, rel=0.15)
    else:
        assert mean[[0, 1, 4, 5]] == pytest.approx(mean[0], rel=1e-3)


def test_operators_with_one_between_them_are_linked_too():
    space = space_of(names=("a", "b", "c", "d"))
    conversion_edges = (
        ConversionEdge("a", ("b", "c")),
        ConversionEdge("b", ("c",)),
        ConversionEdge("c", ("d",)),
        ConversionEdge("z", ("a",)),
    )
    # a and c are neighbours already.
    assert {(k.producer, k.consumers) for k in indirect(space, conversion_edges)} == {("a", ("d",)), ("b", ("d",))}


def test_operators_without_weights_are_linked_to_the_nearest_ones_with_weights():
    """conv1 -> relu -> pool -> mul -> conv2, with a gate from the pool to the mul."""
    weights = {"conv1": 10, "gate": 10, "conv2": 10}
    space = space_of(names=("conv1", "relu", "pool", "gate", "mul", "conv2"), parameters=lambda n: weights.get(n, 0))
    conversion_edges = (
        ConversionEdge("conv1", ("relu",)),
        ConversionEdge("relu", ("pool", "mul")),
        ConversionEdge("pool", ("gate",)),
        ConversionEdge("gate", ("mul",)),
        ConversionEdge("mul", ("conv2",)),
    )
    found = {(k.producer, *k.consumers) for k in indirect(space, conversion_edges)}
    threes = {one for one in found if len(one) == 3}
    assert threes == {
        ("relu", "conv1", "gate"),
        ("relu", "conv1", "conv2"),
        ("pool", "conv1", "gate"),
        ("mul", "conv1", "conv2"),
        ("mul", "gate", "conv2"),
    }
    assert {("conv1", "gate"), ("conv1", "conv2"), ("gate", "conv2"), ("conv1", "mul"), ("pool", "mul")} <= found
    assert not {("conv1", "relu"), ("gate", "mul")} & found  # neighbours


def test_a_layout_that_three_operators_have_to_keep_is_found_in_profiles():
    """What has no weights is fast in int8 where the weighted operators on both sides, two away, are in int8 too."""
    names = [f"op{i}" for i in range(9)]
    space, rng = space_of((ASYM, FLOAT), names, lambda n: 10 * (n in names[::4])), np.random.default_rng(0)
    conversion_edges = tuple(ConversionEdge(a, (b,), 1000) for a, b in itertools.pairwise(names))

    def profile(config):
        int8 = {n: not config.schemes[n].is_float for n in names}
        ops = {n: 1e-4 if int8[n] else 2e-4 for n in names}
        for i in (2, 6):
            ops[names[i]] += 3e-4 * (int8[names[i]] and not (int8[names[i - 2]] and int8[names[i + 2]]))
        return Profile(ops, (), 0.0, converted=())

    configs = [space.default(), *(space.sample(rng) for _ in range(40))]
    told = [(c, profile(c)) for c in configs]
    fresh = [c for c in (space.sample(rng) for _ in range(50)) if c.int8_ops]

    def error(far):
        columns = Columns(space, conversion_edges, far)
        mean = expected(columns, told, 2e-3, 1).mean
        return np.mean([abs(float(columns.row(c) @ mean) / (sum(profile(c).ops.values()) / 2e-3) - 1) for c in fresh])

    far = indirect(space, conversion_edges)
    assert error(far) < 0.75 * error([k for k in far if len(k.consumers) == 1])


def test_a_timing_far_from_what_the_others_lead_to_expect_counts_for_less():
    space, rng = space_of(), np.random.default_rng(3)
    truth, columns = true_terms(rng), Columns(space_of(), conversion_edges_of())
    all_float = space.all_float()
    configs = [
        all_float.with_ops(dict.fromkeys(rng.permutation(NAMES)[: rng.integers(1, len(NAMES))], ASYM))
        for _ in range(40)
    ]
    prior, rows = expected(columns, (), 1e-3, 1), np.stack([columns.row(c) for c in configs])
    ratios = np.array([truth(c) for c in configs])
    wrong = ratios.copy()
    wrong[[5, 17]] *= 1.25

    def error(firm=None):
        values, _ = posterior(prior, rows, wrong, 0.01 * ratios, firm)
        return float(np.abs(rows @ values / ratios - 1).max())

    assert error() < 0.02 < error(np.ones(40, bool))


def test_what_an_operator_takes_more_beside_others_is_found_in_profiles():
    """A float operator behind an int8 one, and an int8 one two behind a float one, take longer, as layouts have it."""
    names = [f"op{i}" for i in range(8)]
    space, rng = space_of((ASYM, FLOAT), names), np.random.default_rng(0)
    conversion_edges = tuple(ConversionEdge(a, (b,), 1000) for a, b in itertools.pairwise(names))

    def profile(config):
        float_ = {n: config.schemes[n].is_float for n in names}
        ops = {n: 2e-4 if float_[n] else 1e-4 for n in names}
        for before, name in itertools.pairwise(names):
            ops[name] += 5e-5 * (float_[name] and not float_[before])
        for far, name in zip(names, names[2:], strict=False):
            ops[name] += 8e-5 * (float_[far] and not float_[name])
        crossed = [a for a, b in itertools.pairwise(names) if float_[a] != float_[b]]
        return Profile(ops, ((1000, 3e-5),) * len(crossed), 0.0, converted=tuple(crossed))

    def total(config):
        shown = profile(config)
        return (sum(shown.ops.values()) + sum(t for _, t in shown.conversions)) / 2e-3

    configs = [space.default(), *(space.sample(rng) for _ in range(30))]
    told = [(c, profile(c)) for c in configs]
    fresh = [c for c in (space.sample(rng) for _ in range(50)) if c.int8_ops]

    def error(far):
        columns = Columns(space, conversion_edges, far)
        mean = expected(columns, told, 2e-3, 1).mean
        return np.mean([abs(float(columns.row(c) @ mean) / total(c) - 1) for c in fresh])

    assert error(indirect(space, conversion_edges)) < 0.01 < 0.02 < error(())


def test_times_of_a_node_are_averaged_below_the_microseconds_that_engines_tell():
    rng = np.random.default_rng(0)
    ticks = [float(np.floor(rng.uniform() + 2.3)) * 1e-6 for _ in range(60)] + [50e-6] * 20
    disturbed = NodeTimes("a", False, 10, ticks)
    found = summarise([disturbed, NodeTimes("b", True, 10, [1e-6])])
    assert 2.2e-6 < found.ops["a"] < 2.4e-6
    assert found.converted == ()
    assert summarise([NodeTimes("b", True, 10, [1e-6])], traced=True).converted == ("b",)


def test_without_noise_the_regression_passes_through_its_timings():
    space, rng = space_of(), np.random.default_rng(1)
    truth = true_terms(rng)
    columns = Columns(space, conversion_edges_of())
    configs = [space.all_float(), space.default(), *(space.sample(rng) for _ in range(6))]
    rows = np.stack([columns.row(c) for c in configs])
    ratios = np.array([truth(c) for c in configs])
    values, _ = posterior(expected(columns, (), 1e-3, 1), rows, ratios, np.full(len(rows), 1e-6))
    np.testing.assert_allclose(rows @ values, ratios, rtol=1e-3)


def test_left_out_errors_are_those_of_fits_without_the_timing():
    space, rng = space_of(), np.random.default_rng(2)
    truth = true_terms(rng)
    columns = Columns(space, conversion_edges_of())
    prior = expected(columns, (), 1e-3, 1)
    configs = [space.sample(rng) for _ in range(5)]
    rows = np.stack([columns.row(c) for c in configs])
    ratios, noise = np.array([truth(c) for c in configs]), np.full(5, 0.01)
    _, left_out = posterior(prior, rows, ratios, noise)
    others = np.arange(5) != 3
    without, _ = posterior(prior, rows[others], ratios[others], noise[others])
    assert left_out[3] == pytest.approx(float(rows[3] @ without - ratios[3]))


@pytest.mark.parametrize("seed", range(5))
def test_profiles_and_eleven_timings_predict_configurations_never_timed(seed):
    space, rng = space_of(), np.random.default_rng(seed)
    truth = true_terms(rng)
    columns = Columns(space, conversion_edges_of())
    default, all_float = space.default(), space.all_float()
    halves = [all_float.with_ops(dict.fromkeys(NAMES[start::2], ASYM)) for start in (0, 1)]
    profiled = [all_float, default, *halves]
    prior = expected(columns, [(c, profile_of(truth, c, rng)) for c in profiled], 1e-3, 1)
    timed = [*profiled, default.with_ops(dict.fromkeys(NAMES, SYM)), *(space.sample(rng) for _ in range(6))]
    rows = np.stack([columns.row(c) for c in timed])
    ratios = np.array([truth(c) for c in timed]) * rng.lognormal(0, 0.01, len(timed))
    values, _ = posterior(prior, rows, ratios, 0.01 * ratios)
    fitted = columns.terms(values, 0.0)
    fresh = [
        all_float.with_ops({n: ASYM for n in NAMES if rng.random() < share}) for share in rng.uniform(0.1, 0.9, 30)
    ]
    errors = [abs(fitted(c) / truth(c) - 1) for c in fresh]
    assert np.mean(errors) < 0.03
    assert max(errors) < 0.1


class SteadyBackend(ToyBackend):
    """Toy models in a time of their own, which passes by the known seconds of a run and 1 % of noise."""

    def __init__(self):
        super().__init__(ToySettings())
        self.now, self.runs, self.noise = 0.0, 0, np.random.default_rng(9)

    def reference(self):
        return self.steady(super().reference())

    def build(self, config):
        return self.steady(super().build(config))

    def steady(self, model):
        seconds = toy_time(self.ops, model._config)

        def predict(batch):
            self.now += seconds * self.noise.lognormal(0, 0.01)
            self.runs += 1

        model.predict = predict
        return model


@pytest.fixture
def toy(tmp_path):
    def make(ops, backend=None):
        path = tmp_path / "model.toy"
        path.write_text(json.dumps(ops))
        backend = backend or ToyBackend(ToySettings(simulated=True))
        backend.load(ModelSource("model", {"toy": path}))
        return backend, Space(backend.capabilities())

    return make


BATCH = {"x": np.array([0.5])}


def test_a_backend_without_profiles_is_timed_and_predicted(toy):
    times = [(400, 100), (50, 45), (200, 60), (100, 90), (20, 10), (300, 250)]
    backend, space = toy(
        [{"name": f"c{i}", "time_us": a, "int8_time_us": b} for i, (a, b) in enumerate(times)], SteadyBackend()
    )
    terms = fit_latency(backend, space, BATCH, np.random.default_rng(0), runs=20, clock=lambda: backend.now)
    whole = sum(a for a, _ in times)
    assert terms(space.all_float()) == pytest.approx(1.0, abs=0.01)
    assert terms(space.default()) == pytest.approx(sum(b for _, b in times) / whole, abs=0.01)
    rng, errors = np.random.default_rng(1), []
    for _ in range(20):
        config = space.sample(rng)
        truth = sum(b if not config.schemes[f"c{i}"].is_float else a for i, (a, b) in enumerate(times)) / whole
        errors.append(abs(terms(config) / truth - 1))
    assert np.mean(errors) < 0.04
    assert 0 < terms.error < 0.1
    assert backend.runs < 2500


def test_what_the_engine_cannot_build_is_left_out(toy, caplog):
    backend, space = toy(
        [
            {"name": "a", "time_us": 100, "int8_time_us": 50},
            {"name": "b", "time_us": 100, "int8_time_us": 50, "fails": True},
        ]
    )
    terms = fit_latency(backend, space, BATCH, np.random.default_rng(0), runs=20)
    assert "b cannot run in int8" in caplog.text
    assert terms(space.all_float()) == pytest.approx(1.0, abs=0.15)
    assert terms(space.all_float().with_ops({"a": space.default().schemes["a"]})) < 0.9


def a_backend(toy, backend):
    times = [(400, 100), (50, 45), (200, 60), (100, 90), (20, 10), (300, 250)]
    return toy([{"name": f"c{i}", "time_us": a, "int8_time_us": b} for i, (a, b) in enumerate(times)], backend)


def test_ratios_are_taken_beside_the_session_that_is_given(toy):
    """Two sessions of one graph differ for life: here the given one is a quarter slower than any that is opened."""
    backend, space = a_backend(toy, SteadyBackend())
    slow = backend.reference()
    quick = slow.predict

    def predict(batch):
        before = backend.now
        quick(batch)
        backend.now += 0.25 * (backend.now - before)

    slow.predict, closed = predict, []
    slow.close = lambda: closed.append(True)
    terms = fit_latency(
        backend, space, BATCH, np.random.default_rng(0), runs=20, clock=lambda: backend.now, reference=slow
    )
    assert terms(space.all_float()) == pytest.approx(1 / 1.25, abs=0.02)
    assert not closed


class ProfiledBackend(SteadyBackend):
    """The same with profiles; a configuration may cost up to so much more, which no sum of terms tells."""

    def __init__(self, surprise=0.0):
        super().__init__()
        self.surprise, self.built = surprise, []

    def build(self, config):
        model = super().build(config)
        self.built.append(config)
        wild = self.surprise * (int(config.fingerprint[:6], 16) % 1000 / 1000)
        plain = model.predict

        def predict(batch):
            before = self.now
            plain(batch)
            self.now += wild * (self.now - before)

        model.predict = predict
        times = {
            op.name: (op.time_us if config.schemes[op.name].is_float else op.int8_time_us) * 1e-6 for op in self.ops
        }
        model.profile = lambda batch, runs: Profile(times, (), 0.0)
        return model


@pytest.mark.parametrize("kind", [SteadyBackend, ProfiledBackend])
def test_a_brief_fit_opens_four_graphs_and_finds_what_is_slower_in_int8(toy, kind):
    backend, space = a_backend(toy, kind())
    built = []
    build = backend.build
    backend.build = lambda config: built.append(config) or build(config)
    terms = fit_latency(backend, space, BATCH, np.random.default_rng(0), clock=lambda: backend.now, brief=True)
    reference, counted = 1, 4
    assert len(built) == reference + counted
    assert terms.error == 0.0
    default = space.default()
    true = {op.name: op.time_us - op.int8_time_us for op in backend.ops}
    saved = {name: terms(default.with_op(name)) - terms(default) for name in true}
    if kind is ProfiledBackend:
        assert sorted(saved, key=saved.get) == sorted(true, key=true.get)
    assert latency_model.least_seconds(space, 0.01, 0.1, brief=True) < latency_model.least_seconds(space, 0.01, 0.1) / 3


def test_a_fit_builds_no_further_graph_once_its_deadline_has_passed(toy):
    backend, space = a_backend(toy, ProfiledBackend())
    plain, done = backend.build, []

    def build(config):
        done.append("build")
        model = plain(config)
        profile = model.profile
        model.profile = lambda *asked: done.append("profile") or profile(*asked)
        return model

    def check():
        if done[-1:] == ["profile"]:
            raise OutOfTimeError("over")

    backend.build = build
    with pytest.raises(OutOfTimeError):
        fit_latency(backend, space, BATCH, np.random.default_rng(0), clock=lambda: backend.now, brief=True, check=check)
    assert done == ["build", "build", "profile"]


def test_a_brief_fit_leaves_out_what_it_has_no_time_for(toy):
    backend, space = a_backend(toy, ProfiledBackend())
    fit_latency(
        backend, space, BATCH, np.random.default_rng(0), clock=lambda: backend.now, brief=True, left=lambda: 0.0
    )
    # The all-float form of the reference, then the all-float graph and the default.
    assert [config.int8_ops != () for config in backend.built] == [False, False, True]


def pairs_timed(toy, backend):
    backend, space = a_backend(toy, backend)
    terms = fit_latency(backend, space, BATCH, np.random.default_rng(0), runs=20, clock=lambda: backend.now)
    return len(backend.built), terms.error


@pytest.mark.parametrize("kind", [SteadyBackend, ProfiledBackend])
def test_operators_with_one_between_them_have_terms_where_profiles_tell_them(toy, kind):
    backend, space = a_backend(toy, kind())
    names = list(space.ops)
    backend.conversion_edges = lambda: tuple(ConversionEdge(a, (b,)) for a, b in itertools.pairwise(names))
    terms = fit_latency(backend, space, BATCH, np.random.default_rng(0), runs=20, clock=lambda: backend.now)
    linked = {(b.producer, b.consumers) for b in terms.conversion_edges}
    assert (names[0], (names[1],)) in linked
    assert ((names[0], (names[2],)) in linked) == (kind is ProfiledBackend)


def test_pairs_are_timed_until_the_error_is_small_enough(toy):
    few, small = pairs_timed(toy, ProfiledBackend())
    many, large = pairs_timed(toy, ProfiledBackend(surprise=1.0))
    assert small <= PLAN.accepted_error < large
    assert many - few >= 2 * (PLAN.pairs - 6)
    assert few > PLAN.least_random + 4  # the ends and the alternating ones are timed besides


@pytest.mark.parametrize(("noise", "surprise", "again"), [(0.1, 1.0, True), (0.1, 0.0, False), (0.01, 1.0, False)])
def test_noisy_timings_are_taken_once_more_where_the_error_is_large(toy, caplog, monkeypatch, noise, surprise, again):
    fitted = []

    def fit(columns, prior, timed):
        fitted.append([sample.ratio for sample in timed])
        return _fit(columns, prior, timed)

    monkeypatch.setattr(latency_model, "_fit", fit)
    backend, space = a_backend(toy, ProfiledBackend(surprise))
    draw = np.random.default_rng(9)
    backend.noise = SimpleNamespace(lognormal=lambda *_: draw.lognormal(0, noise))
    with caplog.at_level("INFO"):
        fit_latency(backend, space, BATCH, np.random.default_rng(0), runs=20, clock=lambda: backend.now)
    assert ("taken once more" in caplog.text) == again
    assert (len(backend.built) > len(dict.fromkeys(backend.built)) + PLAN.pairs) == again
    assert (len(fitted[-1]) == len(fitted[-2]) and fitted[-1] != fitted[-2]) == again


def test_a_second_timing_counts_by_how_sure_it_is():
    sample = _Timed("half 0", None, 1.0, 0.01)
    sample.average(1.21, 0.01)
    assert sample.ratio == pytest.approx(1.1)
    assert sample.deviation == pytest.approx(0.01 / 2**0.5)
    sure = _Timed("half 0", None, 1.0, 0.001)
    sure.average(1.21, 0.1)
    assert sure.ratio == pytest.approx(1.0, abs=0.01)
    assert 0.0005 < sure.deviation < 0.002
    both_sure = _Timed("half 0", None, 1.0, 0.001)
    both_sure.average(1.21, 0.003)
    assert both_sure.ratio == pytest.approx(1.1, abs=0.01)


@pytest.mark.parametrize(("count", "pairs"), [(12, 16), (100, 20), (300, 24)])
def test_the_more_operators_the_more_is_timed(count, pairs):
    names = [f"op{i:03d}" for i in range(count)]
    space = space_of((ASYM, FLOAT), names)
    assert _how_many(space) == (pairs, max(12, count // 3))


def test_every_second_pair_takes_operators_that_follow_each_other():
    names = [f"op{i:03d}" for i in range(60)]
    space = space_of((ASYM, FLOAT), names)
    changes, shares, places = [], [], set()
    for index, sample in enumerate(_halves(space, 16, np.random.default_rng(0))):
        int8 = [not sample.config.schemes[name].is_float for name in names]
        crossed = [i for i, (a, b) in enumerate(itertools.pairwise(int8)) if a != b]
        changes.append(len(crossed))
        if index % 2 == 0:
            shares.append(sum(int8))
        if index % 4 >= 2:
            places.update(i % 10 for i in crossed)
    mixed, together = np.array(changes).reshape(8, 2, 2).transpose(1, 0, 2).reshape(2, -1)
    assert shares == [round(share * 60) for share in (*PLAN.int8_shares, *PLAN.int8_shares) for _ in range(2)]
    assert len(places) > 6  # of ten: stretches do not always begin at the same operators
    # Ten operators to a stretch: seven stretches at most, one of which may be cut.
    assert together.max() <= 8
    # Of 60 with shares of 0.08 to 0.5, some 9 to 30 neighbours differ.
    assert mixed.min() >= 6
    assert together.mean() < 0.4 * mixed.mean()


def test_a_short_model_is_run_more_often(toy):
    def runs(factor):
        backend, space = toy([{"name": "a", "time_us": 100 * factor, "int8_time_us": 50 * factor}], SteadyBackend())
        fit_latency(backend, space, BATCH, np.random.default_rng(0), clock=lambda: backend.now)
        return backend.runs

    assert runs(1) / runs(100) == pytest.approx(PLAN.most_runs / PLAN.runs, rel=0.3)
    assert runs(20) / runs(100) == pytest.approx(PLAN.runs_seconds / 2e-3 / PLAN.runs, rel=0.3)


def test_a_timing_that_was_noisy_is_not_held_to():
    space, rng = space_of(), np.random.default_rng(3)
    truth, columns = true_terms(rng), Columns(space_of(), conversion_edges_of())
    default, all_float = space.default(), space.all_float()
    configs = [
        all_float.with_ops(dict.fromkeys(rng.permutation(NAMES)[: rng.integers(1, len(NAMES))], ASYM))
        for _ in range(60)
    ]
    timed = [_Timed(f"half {i}", config, truth(config), 0.005) for i, config in enumerate(configs)]
    prior = expected(columns, (), 1e-3, 1)

    def error(deviation):
        end = _Timed("int8", default, 1.2 * truth(default), deviation)
        values, _, _ = _fit(columns, prior, [*timed, end])
        return abs(float(columns.row(default) @ values) / truth(default) - 1)

    assert error(0.3) < 0.05 < error(0.001)


def test_what_the_noise_of_timings_explains_asks_for_no_further_ones():
    rng = np.random.default_rng(4)
    truth, columns = true_terms(rng), Columns(space_of(), conversion_edges_of())
    all_float = space_of().all_float()
    configs = [
        all_float.with_ops(dict.fromkeys(rng.permutation(NAMES)[: rng.integers(1, len(NAMES))], ASYM))
        for _ in range(60)
    ]
    prior = expected(columns, (), 1e-3, 1)

    def found(noise, deviation):
        return _fit(
            columns,
            prior,
            [
                _Timed(f"half {i}", config, truth(config) * (1 + noise * rng.normal()), deviation)
                for i, config in enumerate(configs)
            ],
        )[1:]

    _, exact = found(0.0, 0.005)
    error, own = found(0.05, 0.05)
    unexplained, its_own = found(0.05, 0.005)
    assert error > 0.04
    assert own < 0.75 * error
    assert its_own > 0.9 * unexplained
    assert exact < 0.02


def test_the_given_clock_counts(toy):
    backend, space = toy([{"name": "a", "time_us": 100, "int8_time_us": 50}], ToyBackend(ToySettings()))
    read = []

    def clock():
        read.append(SIMULATED())
        return read[-1]

    terms = fit_latency(backend, space, BATCH, np.random.default_rng(0), runs=20, clock=clock)
    assert terms(space.default()) == pytest.approx(0.5, abs=0.01)
    assert len(read) > 100
