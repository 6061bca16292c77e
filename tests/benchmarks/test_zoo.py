"""Published models: what is concluded from what was measured, and what a case is."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _path():
    """The benchmarks are scripts: their folder is on the path of who runs them."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))
    for name in [n for n in sys.modules if n.split(".")[0] in ("zoo", "peers")]:
        del sys.modules[name]


@pytest.fixture
def report():
    return importlib.import_module("zoo.report")


@pytest.fixture
def cases():
    return importlib.import_module("zoo.cases")


def judged(ratio, accuracy=None, width=0.005):
    """A case; `ratio` is latency relative to fp32, the judge's pairs follow from it."""
    every = {"fp32": 1.0, **ratio}
    pairs = {
        a: {b: [x / y, x / y * (1 - width), x / y * (1 + width)] for b, y in every.items() if b != a}
        for a, x in every.items()
    }
    found = dict.fromkeys(every, 0.9) | (accuracy or {})
    cell = {"ended": "finished", "seconds": 20.0, "goal_seconds": 5.0, "error": None, "model": "m", "result": None}
    return {
        "kind": "classifier",
        "metric": "top1",
        "tolerable_loss": 0.01,
        "cells": {tool: dict(cell) for tool in every if tool != "fp32"},
        "judged": {
            "accuracy": found,
            "ratio": {"all": pairs},
            "latency_ms": {n: 10 * x for n, x in every.items()},
            "sizes": dict.fromkeys(every, 100),
            "refused": {},
            "seconds": 10.0,
        },
    }


def test_the_geometric_mean_of_nothing_is_none(report):
    assert report.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert report.geometric_mean([]) is None
    with pytest.raises(ValueError, match="positive"):
        report.geometric_mean([1.0, 0.0])


def test_a_tool_that_hands_over_fp32_has_quantized_nothing(report):
    case = judged({"ours": 1.01, "olive": 0.97})
    assert report.best_peer(case) == "olive"
    case["cells"]["olive"]["quantized"] = False
    assert report.best_peer(case) == "fp32"
    assert report.outcome(case, "olive") == "fp32"
    assert report.faster_peers(case) == report.only_by_peers(case) == []


def test_a_case_where_nobody_gains_is_a_tie(report):
    assert report.score(judged({"ours": 1.1, "static": 1.2})) == 1.0
    assert report.score(judged({"ours": 0.5, "static": 0.4}, {"ours": 0.5, "static": 0.5})) == 1.0
    assert report.score(judged({"ours": 0.97, "static": 0.95}, width=0.1)) == 1.0


def test_an_inaccurate_peer_does_not_count_however_fast(report):
    case = judged({"ours": 0.5, "static": 0.2, "dynamic": 0.8}, {"static": 0.85})
    assert report.best_peer(case) == "dynamic"
    assert report.score(case) == pytest.approx(0.5 / 0.8)


def test_without_an_accurate_peer_ours_is_compared_with_fp32(report):
    assert report.score(judged({"ours": 0.4, "static": 0.2}, {"static": 0.1})) == pytest.approx(0.4)


def test_a_loss_counts_against_us_also_when_we_keep_fp32(report):
    case = judged({"ours": 0.3, "inc": 0.5}, {"ours": 0.5})
    assert report.shipped(case) == "fp32"
    assert report.score(case) == pytest.approx(2.0)
    assert report.only_by_peers(case) == ["inc"]


def test_a_peer_is_faster_only_by_its_whole_interval(report):
    assert report.faster_peers(judged({"ours": 0.5, "nncf": 0.48})) == ["nncf"]
    assert report.faster_peers(judged({"ours": 0.5, "nncf": 0.49}, width=0.01)) == []


def test_the_table_has_the_rows_that_we_lose(report):
    results = {"processor": "a processor", "cases": {"a": judged({"ours": 0.5, "inc": 0.4})}}
    lines = report.table(results)
    assert any(line.startswith("| a | inc | met | 0.9000 | 0.400 (0.398-0.402)") for line in lines)
    assert any(line.startswith("| a | ours | met | 0.9000 | 0.500") for line in lines)
    said = "\n".join(report.summary(results))
    assert "faster by more than 2 %: a (inc)." in said
    assert "geometric mean of latency: 1.250." in said


def test_what_is_kept_gives_the_same_table_and_conclusions(report):
    case = judged({"ours": 1 / 3, "inc": 2 / 3, "olive": 1.0})
    case["cells"]["ours"]["result"] = {"status": "goal_not_met", "trials": []}
    case["cells"]["olive"]["quantized"] = False
    case["cells"]["nncf"] = {
        "ended": "failed",
        "seconds": 1 / 3,
        "goal_seconds": None,
        "model": None,
        "error": "a" * 99,
    }
    case["cells"]["dynamic"] = {**case["cells"]["inc"], "model": "/a/folder/m.onnx", "error": "/a/folder"}
    results = {"processor": "a processor", "cases": {"a": case}}
    kept = report.kept(results)
    assert report.table(kept) == report.table(results)
    assert report.summary(kept) == report.summary(results)
    assert "folder" not in str(kept)
    assert report.kept(kept) == kept


def test_the_tables_of_the_docs_are_those_of_the_kept_figures():
    spec = importlib.util.spec_from_file_location("zoo_script", BENCHMARKS / "zoo.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text, results = script.DOCS.read_text(), json.loads(script.KEPT.read_text())
    assert text == script.page(text, results), "run python benchmarks/zoo.py report --docs"
    with pytest.raises(SystemExit, match="lacks the lines"):
        script.page("no marks", results)


def test_a_tool_without_a_model_says_why(report):
    case = judged({"ours": 0.5})
    case["cells"]["inc"] = {"ended": "failed", "seconds": 3.0, "goal_seconds": None, "error": "a | b", "model": None}
    case["cells"]["nncf"] = {"ended": "capped", "seconds": 105.0, "goal_seconds": None, "error": None, "model": None}
    assert report.outcome(case, "inc") == "failed: a / b"
    assert report.outcome(case, "nncf") == "capped"


def test_there_are_twelve_models_of_eight_kinds_with_hash_and_licence(cases):
    packages = importlib.import_module("zoo.packages").PACKAGES
    assert len(cases.CASES) >= 12
    assert len({c.kind.split(",")[0] for c in cases.CASES}) >= 8
    assert len({c.name for c in cases.CASES}) == len(cases.CASES)
    for case in cases.CASES:
        assert len(case.sha256) == 64, case.name
        assert case.licence if case.package == cases.SHARED else packages[case.package].licence, case.name


def test_lines_of_one_width_run_together_and_come_back_in_order(cases):
    case = cases.case_of("ocr_rec")
    data = {"x": np.arange(6.0).reshape(6, 1, 1, 1) + np.zeros((6, 3, 48, 320)), "width": np.array([64, 96] * 3)}
    batches = list(case.batches(data, 2))
    assert [case.feed(data, places)["x"].shape[-1] for places in batches] == [64, 64, 96, 96]
    assert sorted(place for places in batches for place in places) == list(range(6))


def test_a_wheel_with_another_hash_is_refused(tmp_path, monkeypatch):
    packages = importlib.import_module("zoo.packages")
    (tmp_path / "magika").mkdir()
    with zipfile.ZipFile(tmp_path / "magika" / "magika.whl", "w") as files:
        files.writestr("model.onnx", "x")
    with pytest.raises(SystemExit, match="sha256"):
        packages.wheel("magika", tmp_path)
    right = hashlib.sha256((tmp_path / "magika" / "magika.whl").read_bytes()).hexdigest()
    package = packages.PACKAGES["magika"]
    known = packages.Package(package.name, package.version, right, package.licence)
    monkeypatch.setitem(packages.PACKAGES, "magika", known)
    assert packages.member(packages.wheel("magika", tmp_path), "model.onnx") == b"x"


def test_metrics_count_only_what_is_labelled():
    metrics = importlib.import_module("zoo.metrics")
    scores = np.eye(3)[None, [0, 1, 2]]
    assert metrics.tags(scores, np.array([[0, 2, -100]])) == 0.5
    assert metrics.edit_distance([1, 2, 3], [1, 3, 4]) == 2
    truth = np.array([[[100.0, 0.9], [100.0, 0.1]]])
    assert metrics.pitch((np.array([[102.0, 300.0]]), np.array([[0.8, 0.2]])), truth) == 1.0
    assert metrics.pitch((np.array([[110.0, 300.0]]), np.array([[0.8, 0.6]])), truth) == 0.0


def product(folder, name, weight):
    """A model of one matrix product, 4 numbers to 3 scores."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["scores"])],
        name,
        [value("x", TensorProto.FLOAT, [None, 4])],
        [value("scores", TensorProto.FLOAT, [None, 3])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    path = folder / f"{name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return str(path)


def test_the_judge_compares_with_fp32_and_scores_single_samples(tmp_path, cases):
    driver = importlib.import_module("zoo.driver")
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 3))
    fp32, other = product(tmp_path, "fp32", weight), product(tmp_path, "other", weight + rng.normal(size=(4, 3)))
    kws = cases.case_of("kws")
    data = {"x": rng.normal(size=(50, 4)).astype(np.float32)}
    for metric in ("cosine", "top1_agreement"):
        judge = driver.Judge(replace(kws, inputs=("x",), metric=metric), data, fp32)
        assert judge.value(fp32) == 1.0
        value, single = judge.both(other, list(range(50)))
        assert value < 0.99
        assert value == pytest.approx(judge.value(other)) == pytest.approx(np.mean(single))
    assert not driver.is_quantized(fp32)


def test_a_candidate_is_timed_in_turn_with_fp32_and_first_runs_do_not_count(tmp_path, cases, monkeypatch):
    driver = importlib.import_module("zoo.driver")
    clock, order = [0.0], []

    class Session:
        def __init__(self, model):
            self.model, self.runs = model, 0

        def run(self, _, feed):
            self.runs += 1
            order.append(self.model)
            took = {"fp32": 2.0, "candidate": 0.5}[self.model]
            clock[0] += took if self.runs > driver.UNTIMED_RUNS else 100.0

    monkeypatch.setattr(driver, "opened", Session)
    monkeypatch.setattr(driver, "TIMED_RUNS", 3)  # fewer than those before them, so that the median would show these
    monkeypatch.setattr(driver.time, "perf_counter", lambda: clock[0])
    task = driver.Task.__new__(driver.Task)
    task.case, task.model, task.data = replace(cases.case_of("kws"), inputs=("x",)), "fp32", {"x": np.zeros((2, 4))}
    assert task.latency_ratio("candidate") == 0.25
    assert order == ["fp32", "candidate"] * (driver.UNTIMED_RUNS + driver.TIMED_RUNS)


def test_what_single_samples_add_to_r2_is_r2(tmp_path, cases):
    driver = importlib.import_module("zoo.driver")
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(4, 3))
    fp32, other = product(tmp_path, "fp32", weight), product(tmp_path, "other", weight * 0.9)
    x = rng.normal(size=(40, 4)).astype(np.float32)
    case = replace(cases.case_of("qlknn"), inputs=("x",), positions=(0,))
    y = (x @ weight).astype(np.float32)
    judge = driver.Judge(case, {"x": x, "y": y}, fp32)
    assert judge.value(fp32) == pytest.approx(1.0)
    value, single = judge.both(other, list(range(40)))
    assert value == pytest.approx(np.mean(1 - ((0.1 * y) ** 2).mean(0) / y.var(0)), abs=1e-5)
    assert value == pytest.approx(np.mean(single))


def test_a_tool_that_does_not_end_is_killed_at_the_limit(tmp_path):
    tools = importlib.import_module("zoo.tools")
    terms = tools.Terms(limit=0.3, grace=0.2, cpu=max(os.sched_getaffinity(0)))
    command = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"]
    _, seconds, status, _ = tools.watch(command, tmp_path, terms, {}, lambda: None)
    assert status is None
    assert seconds < 10
    assert tools.ended(status) == "capped"
