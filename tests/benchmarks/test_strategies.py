"""The comparison of strategies: tables, their replay, and what is said of them."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OPS, SAMPLES, SESSIONS, NOISE = 5, 400, 3, 0.01
SAVED = np.array([0.30, 0.20, 0.15, 0.05, 0.02])
"""Share of fp32's latency that int8 saves in each operator."""
LOST = np.array([2, 40, 4, 4, 0])
"""Samples that int8 gets wrong in each operator."""


@pytest.fixture(scope="module", autouse=True)
def _benchmarks_on_path():
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "strategies"}
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))
    for name in [name for name in sys.modules if name.split(".")[0] == "strategies"]:
        del sys.modules[name]
    sys.modules.update(before)


def table():
    """Every configuration of five operators, with known latencies and losses."""
    from strategies.table import Estimate, Table

    from nc_strategies.api import FLOAT, Capabilities, OpCapability, OpScheme, TensorScheme

    int8 = OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8", "sym", "per_channel"))
    names = [f"op{k}" for k in range(OPS)]
    able = Capabilities(tuple(OpCapability(n, "Conv", (int8, FLOAT), parameters=100, elements=10) for n in names))
    choices = np.array(list(np.ndindex(*[2] * OPS)), np.uint8)
    int8_in = choices == 0
    ratio = 1 - int8_in @ SAVED
    rng = np.random.default_rng(0)
    scores = np.ones((len(choices), SAMPLES))
    first = np.concatenate([[0], np.cumsum(LOST)])
    for k in range(OPS):
        scores[np.ix_(int8_in[:, k], np.arange(first[k], first[k + 1]))] = 0.0
    count = len(choices)
    return Table(
        name="made-up",
        about={
            "model": "made", "backend": "up", "processor": "none", "date": "2026-01-01", "metric": "top1", "runs": 100,
            "fp32_ms": 2.0, "evaluation_batch_size": 50, "score_range": [0.0, 1.0], "higher_is_better": True,
        },
        capabilities=able,
        choices=choices,
        reference=np.ones(SAMPLES),
        scores=scores,
        failed=np.zeros(count, bool),
        graph=np.arange(count, dtype=np.int32),
        size=np.full(count, 0.5, np.float32),
        int8_ops=int8_in.sum(1).astype(np.int16),
        fp32_ops=(~int8_in).sum(1).astype(np.int16),
        divergence=(int8_in @ LOST / 100).astype(np.float32),
        ratio=(ratio[:, None] * np.exp(rng.normal(0, NOISE, (count, SESSIONS)))).astype(np.float32),
        spread=np.full((count, SESSIONS), 0.02, np.float32),
        build_seconds=np.full(count, 0.25, np.float32),
        latency_seconds=np.full(count, 1.0, np.float32),
        accuracy_seconds=np.full(count, 2.0, np.float32),
        estimates={
            "sensitivity": Estimate(dict(zip(names, (LOST / 100).tolist(), strict=True)), 7.0),
            "divergence": Estimate(0.5, 1.5),
        },
    )  # fmt: skip


def test_a_table_is_read_as_it_was_written(tmp_path):
    from strategies.table import Table

    made = table()
    read = Table.load(made.save(tmp_path))
    assert (read.scores == made.scores).all()
    assert read.space.fingerprint == made.space.fingerprint
    assert read.estimates == dict(made.estimates)
    assert read.row(read.space.default()) == 0
    assert read.row(read.space.all_float()) == len(read.choices) - 1


def test_scores_that_are_no_hits_keep_their_values(tmp_path):
    from strategies.table import Table

    made = replace(table(), scores=np.full((2**OPS, SAMPLES), 0.25))
    assert (Table.load(made.save(tmp_path)).scores == 0.25).all()


def test_true_latencies_are_nearer_than_the_means_of_their_sessions():
    from strategies.replay import Truth

    made, exact = table(), 1 - (table().choices == 0) @ SAVED
    truth = Truth.of(made)
    assert truth.noise == pytest.approx(NOISE, rel=0.3)
    means = np.exp(np.log(made.ratio).mean(1))
    assert np.abs(truth.ratio / exact - 1).mean() < np.abs(means / exact - 1).mean()


def test_configurations_that_were_not_timed_have_the_latency_of_the_fit():
    from strategies.replay import Replay, Truth

    made, exact = table(), 1 - (table().choices == 0) @ SAVED
    ratio = made.ratio.copy()
    ratio[5::4] = np.nan
    partly = replace(made, ratio=ratio, spread=np.where(np.isfinite(ratio), made.spread, np.nan))
    truth = Truth.of(partly)
    assert truth.timed == pytest.approx(1 - np.isnan(ratio).any(1).mean())
    assert truth.held_out < 4 * NOISE
    assert truth.ratio == pytest.approx(exact, rel=6 * NOISE)
    config = next(c for c in partly.space.neighbours(partly.space.default()) if partly.row(c) % 4 == 1)
    trial = Replay(partly, limit=1.0, seed=0).measure(config)
    assert trial.evaluation.ratio("latency") > 0


def test_a_trial_costs_its_recorded_seconds_and_a_hopeless_one_less():
    from strategies.replay import Replay

    replay = Replay(table(), limit=0.02, seed=0)
    kept = replay.measure(replay.table.space.all_float().with_ops({"op0": replay.table.space.default().schemes["op0"]}))
    assert kept.ok
    assert replay.seconds == pytest.approx(3.25)
    lost = replay.measure(replay.table.space.default())
    assert not lost.ok
    assert lost.evaluation.samples < SAMPLES
    assert replay.seconds < 2 * 3.25


def test_estimates_are_paid_for_once():
    from strategies.replay import Replay

    replay = Replay(table(), limit=0.02, seed=0)
    problem = replay.problem(10)
    assert replay.seconds == 0
    problem.sensitivity()
    problem.sensitivity()
    assert replay.seconds == 7.0
    problem.divergence(problem.space.default(), 2)
    assert replay.seconds == 7.5
    assert problem.latency_terms is None


@pytest.mark.parametrize("name", ["auto", "basic", "exhaustive", "ilp"])
def test_strategies_find_the_best_that_keeps_the_limit(name):
    from strategies.replay import search

    made = table()
    course = search(made, name, 0.02, 2**OPS, seed=1)
    best = made.choices[course.rows[-1]]
    assert best.tolist() == [0, 1, 0, 0, 1] or best.tolist()[:4] == [0, 1, 0, 1]  # a tie of 2 % in latency
    assert made.losses[course.rows[-1]] <= 0.025
    assert len(course.rows) <= 2**OPS
    assert list(course.seconds) == sorted(course.seconds)


def test_a_strategy_that_cannot_run_is_refused_with_its_reason():
    from strategies.replay import search

    assert "gradients" in search(table(), "hawq_v2", 0.02, 10, seed=0).refused


def test_a_strategy_that_ignores_its_budget_runs_once_for_all_budgets():
    from strategies.replay import search

    assert not search(table(), "random", 0.02, 10, seed=0).budgeted
    assert search(table(), "auto", 0.02, 10, seed=0).budgeted
    whole, part = search(table(), "random", 0.02, 20, seed=3), search(table(), "random", 0.02, 10, seed=3)
    assert whole.at(10).rows == part.rows


def test_the_comparison_says_where_auto_is_behind(tmp_path):
    from strategies import compare

    found = compare.compare([table().save(tmp_path)], ["basic", "random", "hawq_v2"], seeds=2, cache=tmp_path / "cells")
    again = compare.compare([tmp_path / "made-up.npz"], ["basic", "hawq_v2"], seeds=2, cache=tmp_path / "cells")
    assert str(again.find()) == str(found.find(strategy="basic"))
    goals = found.tables["made-up"]["goals"]
    assert goals["hard"]["limit"] < found.tables["made-up"]["default_loss"] <= goals["easy"]["limit"]
    assert set(found.strategies) == {"basic", "random"}
    assert [c.refused != "" for c in found.cells if c.strategy == "hawq_v2"] == [True] * 6
    assert all(min(c.costs) >= found.optimum(c) - 1e-9 for c in found.find())
    assert "| `basic` |" in compare.overall(found)
    assert not compare.verdict(found)
    for cost, words in ((0.1, "on 2 of 2"), (1.2, "behind `basic`")):
        auto = [replace(c, strategy="auto", costs=(cost, cost)) for c in found.find(strategy="basic")]
        assert words in compare.verdict(compare.Comparison([*found.cells, *auto], found.tables))


def test_generated_parts_of_a_page_are_replaced():
    from strategies import compare

    begin, end = compare.MARKS.format("x: begin, written"), compare.MARKS.format("x: end, written")
    page = f"before\n{begin}\nold\n{end}\nafter"
    assert compare.replaced(page, "x", "new") == f"before\n{begin}\n\nnew\n\n{end}\nafter"
    with pytest.raises(SystemExit, match="no marks"):
        compare.replaced(page, "y", "new")


@pytest.mark.parametrize(
    ("status", "said", "files", "problem"),
    [
        (0, "met", "all", ""),
        (3, "missed", "all", ""),
        (3, "met", "all", "status 3, result 'met'"),
        (0, "met", "no page", "no report.html"),
        (1, "", "none", "status 1, result None"),
    ],
)
def test_a_command_is_judged_by_its_status_and_files(tmp_path, status, said, files, problem):
    import json

    from strategies import commands

    folder = tmp_path / "run"
    if files != "none":
        folder.mkdir()
        for name in commands.FILES:
            (folder / name).write_text(json.dumps({"status": said, "speedup": 1.5, "trials": {"total": 6}}))
    if files == "no page":
        (folder / "report.html").unlink()
    ran = commands.judged("basic", "sample", "onnxruntime", status, folder, 6, 1.0)
    assert ran.problem == problem
    assert ("wrong" in commands.table([ran], ["basic"])) == bool(problem)


def test_a_refusal_for_lack_of_gradients_leaves_no_folder(tmp_path):
    from strategies import commands

    good = commands.judged("hawq_v2", "sample", "onnxruntime", 2, tmp_path / "none", 6, 1.0)
    assert not good.problem
    assert commands.judged("hawq_v2", "sample", "onnxruntime", 2, tmp_path, 6, 1.0).problem
