"""The comparison with peers: what is concluded from what was measured, and how processes are watched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SAMPLES = 100


@pytest.fixture(scope="module", autouse=True)
def _path():
    """The benchmarks are scripts: their folder is on the path of who runs them."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))
    for name in [n for n in sys.modules if n == "peers" or n.startswith("peers.")]:
        del sys.modules[name]


@pytest.fixture
def report():
    from peers import report

    return report


def cell(goal, ended="finished", model="model.onnx", wall=50.0):
    return {
        "ended": ended,
        "goal_s": goal,
        "prepare_s": 1.0,
        "wall_s": wall,
        "evaluations": 3,
        "partial": 0,
        "evaluated": 300,
        "model": model,
        "error": None,
    }


def results(cells, accuracy, ratio, limit=900):
    """One case; `ratio` is latency relative to fp32, the judge's pairs follow from it."""
    ratio = {"fp32": 1.0, **ratio}
    pairs = {a: {b: [x / y, x / y * 0.99, x / y * 1.01] for b, y in ratio.items() if b != a} for a, x in ratio.items()}
    judged = {
        "accuracy": {"fp32": 0.60, **accuracy},
        "ratio": pairs,
        "runs": 300,
        "refused": {},
        "latency_ms": {name: 10 * value for name, value in ratio.items()},
    }
    terms = {"samples": SAMPLES, "calibration_samples": 10, "tolerable_loss": 0.01, "batch_size": 50, "limit": limit}
    return {
        "terms": terms,
        "machine": "a processor",
        "versions": {"x": "1"},
        "cases": {"m/free": {"cells": cells, "judged": judged}},
    }


GOOD = results(
    {
        "onnxruntime": cell(None),
        "inc": cell(300.0),
        "nncf": cell(None, "capped", None),
        "basic": cell(20.0),
        "basic@25": cell(None),
    },
    {"onnxruntime": 0.40, "inc": 0.596, "basic": 0.597, "basic@25": 0.598},
    {"onnxruntime": 0.4, "inc": 0.60, "basic": 0.65, "basic@25": 0.55},
)


def held(report, found):
    return {
        claim.text.split(" ")[0] + " " + "".join(p for p in report.FASTER if f"{p}'s" in claim.text): claim.holds
        for claim in report.claims(found)
    }


def test_all_claims_hold_where_they_do(report):
    assert held(report, GOOD) == {"meets ": True, "time inc": True, "time nncf": True, "final ": True}


def test_a_strategy_that_misses_what_a_peer_meets_fails(report):
    cells = {**GOOD["cases"]["m/free"]["cells"], "basic": cell(None, model=None), "basic@25": cell(None, model=None)}
    found = results(cells, {"onnxruntime": 0.40, "inc": 0.596}, {"onnxruntime": 0.4, "inc": 0.6})
    assert held(report, found) == {"meets ": False, "time inc": False, "time nncf": None, "final ": None}


def test_too_slow_to_the_goal_or_too_slow_a_model_fails(report):
    cells = {**GOOD["cases"]["m/free"]["cells"], "basic": cell(31.0), "basic@25": cell(None)}
    accuracy = GOOD["cases"]["m/free"]["judged"]["accuracy"]
    found = results(cells, accuracy, {"onnxruntime": 0.4, "inc": 0.60, "basic": 0.65, "basic@25": 0.62})
    assert held(report, found) == {"meets ": True, "time inc": False, "time nncf": True, "final ": False}


def test_a_cap_shows_a_lower_bound_only(report):
    cells = {**GOOD["cases"]["m/free"]["cells"], "basic": cell(200.0)}
    part = GOOD["cases"]["m/free"]["judged"]
    ratios = {n: pairs["fp32"][0] for n, pairs in part["ratio"].items() if n != "fp32"}
    assert held(report, results(cells, part["accuracy"], ratios))["time nncf"] is None


def test_a_peer_that_gave_up_never_gets_there_and_one_that_failed_shows_nothing(report):
    part = GOOD["cases"]["m/free"]
    ratios = {"onnxruntime": 0.4, "basic": 0.65, "basic@25": 0.55}
    gave_up = results({**part["cells"], "inc": cell(None, model=None)}, part["judged"]["accuracy"], ratios)
    assert held(report, gave_up)["time inc"] is True
    failed = results({**part["cells"], "inc": cell(None, "failed", None)}, part["judged"]["accuracy"], ratios)
    assert held(report, failed)["time inc"] is None


def test_no_time_is_claimed_where_default_int8_passes(report):
    part = GOOD["cases"]["m/free"]
    ratios = {n: pairs["fp32"][0] for n, pairs in part["judged"]["ratio"].items() if n != "fp32"}
    found = results(
        {**part["cells"], "onnxruntime": cell(5.0)}, {**part["judged"]["accuracy"], "onnxruntime": 0.6}, ratios
    )
    by_text = {c.text: c for c in report.claims(found)}
    assert all(not c.cases and c.holds is None for t, c in by_text.items() if t.startswith("time"))


def test_a_model_that_the_judge_finds_inaccurate_is_refuted_not_met(report):
    part = GOOD["cases"]["m/free"]
    ratios = {n: pairs["fp32"][0] for n, pairs in part["judged"]["ratio"].items() if n != "fp32"}
    found = results(part["cells"], {**part["judged"]["accuracy"], "inc": 0.5939}, ratios)
    assert report.status(found, "m/free", "inc") == "refuted"
    assert report.status(GOOD, "m/free", "inc") == "met"
    assert report.status(GOOD, "m/free", "onnxruntime") == "missed"
    assert report.status(GOOD, "m/free", "nncf") == "capped"


def test_the_report_is_printed_from_a_file(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(GOOD))
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "peers.py"), "--report", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "| nncf | capped |  |  | > 900 | 1.0 | 50.0 | 3 |  |" in done.stdout
    assert "| inc | met | 0.5960 | +0.67% | 300.0 | 1.0 | 50.0 | 3 | 0.600 (0.594-0.606) |" in done.stdout
    assert "| basic | time to goal at most 1/10 of inc's, where default int8 misses it | yes |" in done.stdout
    assert "m/free: 20.0 s to more than 900.0 s: 45.0 times" in done.stdout


def test_the_first_whole_evaluation_is_fp32_and_parts_meet_no_goal(tmp_path):
    from peers import cells

    terms = cells.Terms(SAMPLES, 10, 0.01, 50, 900, 0)
    log = [
        ("prepared", 101, 0, 0),
        ("evaluation", 102, 1, 1.0),
        ("evaluation", 103, SAMPLES, 0.6),
        ("evaluation", 104, SAMPLES, 0.5),
        ("evaluation", 105, 30, 0.9),
        ("evaluation", 106, SAMPLES, 0.594),
        ("evaluation", 107, SAMPLES, 0.6),
    ]
    events = [{"event": e, "time": float(t), "samples": s, "accuracy": a} for e, t, s, a in log]
    assert cells._from_events(events, 100.0, terms) == {
        "prepare_s": 1.0,
        "goal_s": 6.0,
        "evaluations": 3,
        "partial": 2,
        "evaluated": 3 * SAMPLES + 31,
    }
    early = cells.Terms(SAMPLES, 10, 0.01, 50, 5, 0)
    assert cells._from_events(events, 100.0, early)["goal_s"] is None


def test_a_tool_is_killed_at_its_limit_with_the_processes_it_started(tmp_path):
    from peers import cells

    cpu = max(os.sched_getaffinity(0))
    terms = cells.Terms(SAMPLES, 10, 0.01, 50, 2.0, cpu)
    script = "sleep 600 & echo $! $(grep Cpus_allowed_list: /proc/self/status); wait"
    _, wall, status = cells._watch(["sh", "-c", script], tmp_path, terms, lambda _: False, {})
    assert status is None
    assert 2.0 <= wall < 300
    pid, _, affinity = (tmp_path / "log.txt").read_text().split()
    assert affinity == str(cpu)
    deadline = time.monotonic() + 60
    while _alive(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(int(pid))


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_half_a_line_of_a_killed_driver_is_left_out(tmp_path):
    from peers import cells

    (tmp_path / "events.jsonl").write_text('{"event": "prepared", "time": 1.0}\n{"event": "evalua')
    assert cells.lines_of(tmp_path / "events.jsonl") == [{"event": "prepared", "time": 1.0}]


def test_the_onnxruntime_driver_leaves_a_model_and_its_log(tmp_path):
    pytest.importorskip("onnxruntime")
    from peers import cells

    from nc_strategies import samples

    folder = Path(samples.__file__).parent
    with np.load(folder / "fashion_evaluation.npz") as data:
        x, y = data["x"][:SAMPLES].astype(np.float32) / 127.5 - 1, data["y"][:SAMPLES]
    np.savez(tmp_path / "samples.npz", x=x, y=y)
    case = cells.Case(
        "fashion/per_tensor",
        folder / "fashion_cnn.onnx",
        "per_tensor",
        tmp_path / "samples.npz",
        tmp_path / "samples.npz",
    )
    terms = cells.Terms(SAMPLES, SAMPLES, 0.5, 30, 120, max(os.sched_getaffinity(0)))
    found = cells.run_peer("onnxruntime", case, terms, tmp_path / "cell", tmp_path, sys.executable)
    assert (found["ended"], found["evaluations"], found["partial"]) == ("finished", 1, 0), found["error"]
    assert 0 < found["prepare_s"] < found["goal_s"] <= found["wall_s"]
    import onnx

    model = onnx.load(found["model"])
    scales = {n.input[1] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    assert scales
    assert all(not i.dims or i.dims == [1] for i in model.graph.initializer if i.name in scales)


def test_the_judge_sees_all_models_side_by_side_and_says_which_it_cannot_open(tmp_path):
    pytest.importorskip("onnxruntime")
    from nc_strategies import samples

    folder = Path(samples.__file__).parent
    with np.load(folder / "fashion_evaluation.npz") as data:
        x, y = data["x"][:SAMPLES].astype(np.float32) / 127.5 - 1, data["y"][:SAMPLES]
    np.savez(tmp_path / "samples.npz", x=x, y=y)
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    sample = folder / "fashion_cnn.onnx"
    models = {"fp32": sample, "same": sample, "broken": tmp_path / "broken.onnx"}
    task = {
        "models": {n: str(p) for n, p in models.items()},
        "evaluation": str(tmp_path / "samples.npz"),
        "batch_size": 30,
        "runs": 40,
        "output": str(tmp_path / "judged.json"),
    }
    (tmp_path / "judge.json").write_text(json.dumps(task))
    root = BENCHMARKS.parent
    subprocess.run(
        [sys.executable, str(BENCHMARKS / "peers" / "judge.py"), str(tmp_path / "judge.json")],
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    judged = json.loads((tmp_path / "judged.json").read_text())
    assert list(judged["refused"]) == ["broken"]
    assert judged["accuracy"]["fp32"] == judged["accuracy"]["same"] > 0.8
    ratio, low, high = judged["ratio"]["same"]["fp32"]
    assert low < ratio < high
    assert 0.5 < ratio < 2
