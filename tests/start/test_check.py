"""``nc-strategies check``: one line, and a status that a build server can act on."""

from __future__ import annotations

import copy
import json

import pytest

from nc_strategies.app import commands
from nc_strategies.app.check import Limits, check
from nc_strategies.errors import InputError


@pytest.fixture(scope="module")
def result(finished):
    return json.loads((finished / "result.json").read_text())


@pytest.fixture
def saved(tmp_path, result):
    """Writes a changed copy of the result; a change is a path of keys to a value."""

    def write(changes):
        content = copy.deepcopy(result)
        for keys, value in changes.items():
            *way, last = keys.split(".")
            place = content
            for key in way:
                place = place[key]
            if value is ...:
                del place[last]
            else:
                place[last] = value
        file = tmp_path / "other.json"
        file.write_text(json.dumps(content))
        return file

    return write


def call(capsys, *words):
    status = commands.main(["check", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_run_that_met_its_goal_passes_as_folder_and_as_file(capsys, finished, result):
    for place in (finished, finished / "result.json"):
        status, out, err = call(capsys, place)
        assert (status, err, out.count("\n")) == (0, "", 1)
        assert out.startswith(f"{place}: met: top1 {result['tuned']['accuracy']:.4f} (asked >= ")
        assert f"{result['speedup']:.2f} times as fast as fp32" in out


def test_a_missed_goal_fails_the_build_with_one_line(capsys, saved):
    status, out, err = call(capsys, saved({"status": "missed", "tuned.accuracy": 0.5}))
    assert (status, err, out.count("\n")) == (3, "", 1)
    assert "missed: top1 0.5000 (asked >= " in out


def test_a_run_without_a_model_fails_the_build(capsys, saved):
    status, out, _ = call(capsys, saved({"status": "failed", "tuned": None, "error": "no memory\nat all"}))
    assert (status, out.partition(": ")[2]) == (3, "failed: no model: no memory at all\n")


def test_a_limit_on_speed_needs_the_whole_interval(capsys, saved):
    file = saved({"speedup": 2.0, "speedup_ci95": [1.8, 2.2]})
    assert call(capsys, file, "--min-speedup", "1.8")[0] == 0
    status, out, _ = call(capsys, file, "--min-speedup", "1.9")
    assert status == 3
    assert "missed: the goal is met, but not all limits are kept: " in out
    assert "speed-up with 95 % at least 1.80, limit 1.9: broken" in out


def test_a_limit_on_loss_is_stated_as_the_goals_loss(saved):
    values = {"baseline.accuracy": 0.8, "tuned.accuracy": 0.796, "goal.threshold": 0.7, "goal.criterion": "relative"}
    assert check(saved(values), Limits(max_loss=0.005)).status == "met"
    assert check(saved(values), Limits(max_loss=0.0045)).limits == {"max_loss": False}
    absolute = {**values, "goal.criterion": "absolute"}
    assert check(saved(absolute), Limits(max_loss=0.004)).status == "met"
    assert check(saved(absolute), Limits(max_loss=0.0039)).status == "missed"
    lower = {**absolute, "goal.higher_is_better": False, "goal.threshold": 0.9, "tuned.accuracy": 0.81}
    assert check(saved(lower), Limits(max_loss=0.011)).status == "met"
    assert check(saved(lower), Limits(max_loss=0.009)).status == "missed"


def test_limits_on_latency_and_size_are_kept_or_broken(saved):
    file = saved({"tuned.latency_ms": 1.5, "tuned.size_bytes": 2_000_000})
    found = check(file, Limits(max_latency_ms=1.5, max_size_mb=1.9))
    assert found.limits == {"max_latency_ms": True, "max_size_mb": False}
    assert found.status == "missed"


def test_a_further_constraint_is_shown(saved):
    other = {"metric": "f1", "criterion": "absolute", "tolerable_loss": 0.1, "threshold": 0.7, "higher_is_better": True}
    values = {"goal.constraints": [other], "tuned.metrics": {"f1": 0.75}, "baseline.metrics": {"f1": 0.8}}
    assert "f1 0.7500 (asked >= 0.7000" in check(saved(values)).text
    with pytest.raises(InputError, match="contradicts itself"):
        check(saved({**values, "tuned.metrics": {"f1": 0.6}}))


def test_the_worst_of_several_runs_decides(capsys, finished, saved):
    status, out, _ = call(capsys, finished, saved({"status": "missed"}))
    assert (status, len(out.splitlines())) == (3, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": ...}, "is not the result of a run"),
        ({"schema_version": 2}, "has schema version 2"),
        ({"status": "fine"}, "is not the result of a run"),
        ({"tuned": None}, "tuned is not a mapping"),
        ({"tuned.accuracy": ...}, "lacks 'accuracy'"),
        ({"tuned.accuracy": float("nan")}, "accuracy is nan, not a number"),
        ({"speedup": "3"}, "speedup is '3', not a number"),
        ({"speedup_ci95": [1.0]}, "not enough values"),
        ({"speedup_ci95": None}, "damaged"),
        ({"goal.higher_is_better": "yes"}, "higher_is_better is 'yes'"),
        ({"goal.constraints": [3]}, "constraint is not a mapping"),
        ({"goal.constraints": 3}, "damaged"),
        ({"tuned.metrics": 3}, "damaged"),
        ({"tuned.accuracy": 0.0}, "contradicts itself: its status is met, but top1"),
    ],
)
def test_a_damaged_or_foreign_result_is_refused_in_one_line(capsys, saved, changes, words):
    status, out, err = call(capsys, saved(changes))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert words in err


def test_what_is_no_result_is_refused_in_one_line(capsys, tmp_path):
    (tmp_path / "half.json").write_text('{"schema_version": 1, "sta')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "comparison.json").write_text("[]")
    for place in ("half.json", "list.json", "deep.json", "bytes.json", "sweep", ".", "none"):
        status, out, err = call(capsys, tmp_path / place)
        assert (status, out, err.count("\n")) == (2, "", 1), place


def test_a_limit_that_nothing_could_keep_is_refused(capsys, finished):
    for words in (("--min-speedup", "nan"), ("--max-size-mb", "-1"), ("--max-loss", "inf"), ("--max-latency-ms", "0")):
        status, _, err = call(capsys, finished, *words)
        assert (status, err.startswith(f"error: {words[0]}: is ")) == (2, True)


def test_json_says_which_limits_are_kept(capsys, finished):
    status, out, _ = call(capsys, finished, "--min-speedup", "1e6", "--max-loss", "1", "--json")
    (found,) = json.loads(out)
    assert (status, found["status"]) == (3, "missed")
    assert found["limits"] == {"min_speedup": False, "max_loss": True}
