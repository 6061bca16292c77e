"""``nc-strategies export --point K``: the model of a point of a run's measured front."""

from __future__ import annotations

import json
import logging
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from nc_strategies.app import replay
from nc_strategies.app.export import copy_model
from nc_strategies.errors import EngineError, InputError, first_line
from nc_strategies.measuring.extent import Allowance
from nc_strategies.measuring.target import MeasurementTarget
from nc_strategies.problem import Trial
from nc_strategies.registry import registry
from nc_strategies.report.run_files import RunFiles
from nc_strategies.study import front
from nc_strategies.study.folder import CONFIG, extent_of
from nc_strategies.study.setup import make_space

log = logging.getLogger(__name__)


def export_point(run_dir: Path, number: int, to: Path, form: str | None = None, force: bool = False) -> Path:
    """Build the model of a point of the front from its configuration, check that it is the measured one, and save it.

    Model and data are read from the paths in the run's ``config.yaml``: the model is calibrated again. A graph that
    differs from the measured one, for example with another version of the engine, is evaluated again.

    Args:
        run_dir: The run's folder.
        number: Number of the point, from 1.
        to: Path of the model; where it is a folder and the model a file, the model is saved in the folder.
        form: Expected format; any format when None.
        force: Replace an existing file or folder.

    Returns:
        Path of the model.

    Raises:
        InputError: there is no such point, model or data have changed, or the path exists or cannot be written.
        EngineError: the model cannot be built, or is not the measured one.
    """
    run = RunFiles.read(run_dir)
    trial = _point(run, number)
    if to.exists() and not to.is_dir() and not force:
        raise InputError("--to", f"{to} exists", "another path, or --force to replace it")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ncs-point-")))
        config, target = stack.enter_context(replay.reopened(run, here=True))
        target.load()
        extent = extent_of(run.config, run.path / CONFIG)
        if extent is not None:
            target.allow(Allowance().fixed(extent))
        target.baseline(make_space(config, target.calibrate()))
        built = _built(target, trial)
        saved = target.save(target.settle(built).final, scratch / "model")
        backend = registry().create("backend", config.backend)
        return copy_model(saved, to, form, force, backend)


def _point(run: RunFiles, number: int) -> Trial:
    """A point of the front as a trial.

    Raises:
        InputError: the run has no front that can be read, or no model of that number.
    """
    path = run.path / front.FILE
    try:
        points: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["points"]
    except FileNotFoundError:
        raise InputError(str(run.path), "holds no measured front", "a run with tuning.front=N") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(str(path), f"cannot be read ({first_line(error)})") from None
    models = [point for point in points if point["role"] != "fp32"]
    allowed = f"one of {', '.join(str(point['point']) for point in models)}"
    found = next((point for point in points if point["point"] == number), None)
    if found is None:
        raise InputError("--point", f"is {number}", allowed)
    if found not in models:
        raise InputError("--point", f"{number} is fp32, the model as it was given", allowed)
    try:
        return front.read_point(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(str(path), f"cannot be read ({first_line(error)})") from None


def _built(target: MeasurementTarget, trial: Trial) -> Trial:
    """The trial of the graph that is built now: as it was measured, or measured again if the graph is another one.

    Raises:
        EngineError: it executes other operators in int8, or a metric differs by more than half the width of the
            interval of its loss.
    """
    before = trial.evaluation
    assert before is not None
    target.remember(before)
    now = target.measure(trial.config)
    if now.graph == before.graph:
        return trial
    log.warning("the graph that is built now is not the one that was measured: it was evaluated again")
    if now.int8_ops != before.int8_ops:
        raise EngineError(f"the model executes {now.int8_ops} operators in int8, the measured one {before.int8_ops}")
    low, high = before.loss_ci95 or (0.0, 0.0)
    for (name, value), (_, old) in zip(now.metrics, before.metrics, strict=True):
        if abs(value - old) > (high - low) / 2:
            raise EngineError(f"the model's {name} is {value:.4f}, that of the measured one {old:.4f}")
    return replace(trial, evaluation=now)
