"""``nc-strategies replay``: a new measurement of a run's chosen model, side by side with fp32."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from nc_strategies.app import status
from nc_strategies.app import target as targets
from nc_strategies.app.logs import RunLog
from nc_strategies.app.machine import TARGET_OPTION
from nc_strategies.app.settings import run_config
from nc_strategies.config import RunConfig
from nc_strategies.errors import InputError
from nc_strategies.measuring.remote.agreement import sentence as disagreement
from nc_strategies.measuring.remote.models import ON_HOST, ON_TARGET
from nc_strategies.measuring.target import Finish, MeasurementTarget
from nc_strategies.models.source import files_sha256
from nc_strategies.problem import Goal
from nc_strategies.report.run_files import RunFiles
from nc_strategies.runtime.ssh import Address
from nc_strategies.study.folder import CONFIG, IDENTITY, VERSIONS
from nc_strategies.study.machine import Machine
from nc_strategies.study.setup import make_goal, make_space

HASHES = {"model_sha256": "model", "data_sha256": "data", "calibration_sha256": "data"}


def replay(run_dir: Path, target: str | None = None, ssh_config: str | None = None) -> dict[str, Any]:
    """Open the saved model of a finished run and measure it side by side with fp32, as the run did at its end.

    The paths of model and data come from the run's ``config.yaml``. Nothing is written.

    Args:
        run_dir: The run's folder.
        target: Address of a machine to measure on, accuracy included, as in ``measure.target``; None for where the run
            measured.
        ssh_config: See ``measure.ssh_config``.

    Returns:
        Plain data: ``holds``, and its parts: ``goal`` (with ``met``, ``threshold``, ``then_met``),
        ``speedup`` and ``accuracy`` (each ``then`` and ``now``), ``executed`` (``equal``, ``then``, ``now``),
        ``versions`` (the changed ones), ``machine`` (``then`` and ``now``: what timed).

    Raises:
        TargetError: `target` cannot be used.
        InputError: the run is not finished, or its model, data or saved model is missing or has changed.
        EngineError: the engine cannot open or run the saved model.
    """
    run = RunFiles.read(run_dir)
    saved = _saved(run)
    with reopened(run, target, ssh_config) as (config, opened):
        finish, goal = _measure(run, config, opened, saved)
        found = _compared(run, finish, goal, dict(opened.versions()))
        now = opened.timed_on() or {
            "target": None,
            **Machine.here(config.measure.threads, None, dict(opened.versions())).to_dict(),
        }
        found["machine"] = _machines(run, now)
        found["disagreement"] = disagreement(now.get("agreement"), config.measure.accuracy_on)
        return found


@contextmanager
def reopened(
    run: RunFiles, target: str | None = None, ssh_config: str | None = None, here: bool = False
) -> Iterator[tuple[RunConfig, MeasurementTarget]]:
    """Start a run's engine again, with the model and the data of the run; nothing is loaded yet.

    Args:
        run: The run.
        target: Address of the machine that measures; None for the one that the run measured on.
        ssh_config: See `replay`.
        here: Use this machine only, because nothing is timed.

    Raises:
        InputError: the configuration cannot be read, or the model or data is missing or has changed.
    """
    config = run_configuration(run)
    if target is not None:
        Address.parse(target, TARGET_OPTION)
        config.measure = dataclasses.replace(
            config.measure, target=target, accuracy_on=ON_TARGET, ssh_config=ssh_config
        )
    if here:
        config.measure = dataclasses.replace(config.measure, target=None, accuracy_on=ON_HOST)
    config.executor = {"name": "serial"}
    log = RunLog()
    with ExitStack() as stack:
        stack.callback(log.close)
        opened = targets.start(config)
        stack.callback(opened.close)
        check_sources(run, opened)
        yield config, opened


def _machines(run: RunFiles, now: Mapping[str, Any]) -> dict[str, Any]:
    """What timed then and now: its address, processor, instruction sets and versions."""
    names = ("target", "processor", "instruction_sets", "engine")
    then = run.result.get("machine") or {}
    return {"then": {name: then.get(name) for name in names}, "now": {name: now.get(name) for name in names}}


def _saved(run: RunFiles) -> Path:
    """Path of the saved model, checked to be unchanged."""
    saved = run.saved_model
    if saved is None or run.chosen is None:
        raise InputError(str(run.path), "holds no model", "a run that has ended with one")
    before = (run.result.get("hashes") or {}).get("saved_sha256")
    if before is not None and files_sha256(saved) != before:
        raise InputError(str(saved), "has changed since the run saved it", "the model as it was saved")
    return saved


def run_configuration(run: RunFiles) -> RunConfig:
    """The configuration of a run, from its ``config.yaml``.

    Raises:
        InputError: it cannot be read.
    """
    told = {key: value for key, value in run.config.items() if key != "tracker"}
    try:
        return run_config({"isolation": "process", **told})
    except InputError as error:
        problem = f"cannot be read: {error.key} {error.problem}"
        raise InputError(str(run.path / CONFIG), problem, error.allowed) from None


def check_sources(run: RunFiles, target: MeasurementTarget) -> None:
    """Check that model and data are those of the run.

    Raises:
        InputError: they have changed.
    """
    before, now = run.config.get(IDENTITY) or {}, target.facts()
    for name, key in HASHES.items():
        if now[name] != before.get(name):
            raise InputError(
                key,
                f"has changed since the run (its {name} was {str(before.get(name))[:16]}, is {str(now[name])[:16]})",
                "the files of the run",
            )


def _measure(run: RunFiles, config: RunConfig, target: MeasurementTarget, saved: Path) -> tuple[Finish, Goal]:
    target.load()
    space = make_space(config, target.calibrate())
    goal = make_goal(config, target.baseline(space))
    assert run.chosen is not None
    return target.replay(saved, run.chosen, goal), goal


def _compared(run: RunFiles, finish: Finish, goal: Goal, versions: Mapping[str, str]) -> dict[str, Any]:
    then, final, base = run.result, finish.final, finish.baseline.evaluation
    tuned = then["tuned"]
    ops = final.executed.by_type()
    met, equal = goal.met(final.evaluation), ops == tuned["ops"]
    (low, high), (was_low, was_high) = final.speedup_ci95, then["speedup_ci95"]
    first = goal.constraints[0]
    before = run.config.get(VERSIONS) or {}
    return {
        "holds": met and equal,
        "goal": {
            "metric": run.metric,
            "threshold": first.threshold,
            "higher_is_better": first.higher_is_better,
            "accuracy_met": goal.feasible(final.evaluation),
            "met": met,
            "then_met": then["status"] == "met",
        },
        "accuracy": {
            "then": tuned["accuracy"],
            "now": final.evaluation.metric(first.metric),
            "fp32_then": then["baseline"]["accuracy"],
            "fp32_now": base.metric(first.metric),
            "loss_ci95": list(final.accuracy_loss_ci95) if final.accuracy_loss_ci95 else None,
        },
        "speedup": {
            "then": then["speedup"],
            "then_ci95": [was_low, was_high],
            "now": final.speedup,
            "now_ci95": [low, high],
            "overlap": low <= was_high and was_low <= high,
        },
        "executed": {"equal": equal, "then": tuned["ops"], "now": ops},
        "versions": {
            name: {"then": str(old), "now": versions[name]}
            for name, old in before.items()
            if name in versions and str(old) != versions[name]
        },
    }


def exit_status(found: Mapping[str, Any]) -> int:
    """Exit status of the command: 0 when the result still holds, 3 when it does not."""
    return status.MET if found["holds"] else status.MISSED


def render(found: Mapping[str, Any]) -> str:
    """The result of `replay` as text."""
    goal, accuracy, speed, executed = (found[name] for name in ("goal", "accuracy", "speedup", "executed"))
    sign = ">=" if goal["higher_is_better"] else "<="
    interval = accuracy["loss_ci95"]
    loss = f"; loss {interval[0]:+.4f} to {interval[1]:+.4f} with 95 %" if interval else ""
    apart = "" if speed["overlap"] else "; the intervals do not overlap"
    lines = [
        f"{'holds' if found['holds'] else 'does not hold'}: the goal is {'met' if goal['met'] else 'missed'} now, was "
        f"{'met' if goal['then_met'] else 'missed'} then",
        f"{goal['metric']:10} {accuracy['now']:.4f} now, {accuracy['then']:.4f} then; fp32 {accuracy['fp32_now']:.4f} "
        f"now, {accuracy['fp32_then']:.4f} then (asked {sign} {goal['threshold']:.4f}{loss})",
        f"speed-up   {_speed(speed, 'now')} now, {_speed(speed, 'then')} then{apart}",
        f"operators  int8/fp32 {_count(executed['now'])} now, {_count(executed['then'])} then"
        f"{'' if executed['equal'] else '; not the same'}",
    ]
    if goal["accuracy_met"] and not goal["met"]:
        lines.append("The saved model keeps the accuracy, but is not surely better than fp32: keep the original model.")
    lines += _machine_lines(found)
    lines += [f"{name} was {changed['then']}, is {changed['now']}" for name, changed in found["versions"].items()]
    return "\n".join(lines)


def _machine_lines(found: Mapping[str, Any]) -> list[str]:
    """The machine that timed, where it is another one than then."""
    then, now = found["machine"]["then"], found["machine"]["now"]
    lines = []
    if then["target"] != now["target"] or then["processor"] != now["processor"]:
        names = [str(m["processor"]) + (f" ({m['target']})" if m["target"] else "") for m in (now, then)]
        lines.append(f"machine    {names[0]} now, {names[1]} then")
        lacking = sorted(set(then["instruction_sets"] or ()) - set(now["instruction_sets"] or ()))
        if lacking:
            lines.append(f"           without {', '.join(lacking)}")
    if found["disagreement"]:
        lines.append(found["disagreement"])
    return lines


def _speed(speed: Mapping[str, Any], when: str) -> str:
    low, high = speed[f"{when}_ci95"]
    return f"{speed[when]:.2f} ({low:.2f}-{high:.2f})"


def _count(ops: Mapping[str, Mapping[str, int]]) -> str:
    return "/".join(str(sum(kind[form] for kind in ops.values())) for form in ("int8", "fp32"))
