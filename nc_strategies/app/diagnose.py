"""``nc-strategies diagnose``: what int8 does to the output of each operator of a run's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nc_strategies.app.listing import available
from nc_strategies.app.replay import reopened
from nc_strategies.errors import InputError
from nc_strategies.report import diagnosis, page
from nc_strategies.report.result import write_json
from nc_strategies.report.run_files import RunFiles
from nc_strategies.space import FLOAT, Config, Space
from nc_strategies.study.setup import make_space

INT8, TUNED = "int8", "tuned"


def diagnose(
    run_dir: Path, which: str = INT8, samples: str | int = 100, output: Path | None = None
) -> tuple[dict[str, Any], list[Path]]:
    """Compare the output of each operator with fp32's, on the model and the data of a run.

    The model is calibrated anew, as the run did it. Nothing is timed.

    Args:
        run_dir: The run's folder.
        which: ``int8`` for the default configuration: int8 everywhere, but for operators whose values int8 cannot
            hold, such as sums with attention masks; ``tuned`` for the one that the run has chosen.
        samples: Most samples.
        output: File of the result; None for ``diagnosis.json`` in the run's folder, and the run's page.

    Returns:
        The content of the file, and the files that were written.

    Raises:
        InputError: an argument is not valid; the run cannot be reopened, see `replay.reopened`; it has no chosen
            configuration; or its backend cannot read single operators.
        EngineError: the engine cannot run the graphs.
    """
    count = _count(samples)
    if which not in (INT8, TUNED):
        raise InputError("--config", f"is {which!r}", f"{INT8}, or {TUNED} for the configuration that the run chose")
    run = RunFiles.read(run_dir)
    if which == TUNED and run.chosen is None:
        raise InputError(str(run_dir), "has no chosen configuration", f"a run that has one, or --config {INT8}")
    target_file = _target(output) if output is not None else run_dir / diagnosis.FILE
    with reopened(run, here=True) as (config, target):
        target.load()
        space = make_space(config, target.calibrate())
        chosen = space.default() if which == INT8 or run.chosen is None else run.chosen.config
        if which == TUNED and not space.contains(chosen):
            raise InputError(
                str(run_dir), "chose a configuration that this machine or version does not offer", f"--config {INT8}"
            )
        found = target.diagnose(chosen, _alone(space, chosen), count)
        versions = dict(target.versions())
    content = diagnosis.as_dict(found, chosen, space, which, config.backend, versions)
    write_json(target_file, content)
    written = [target_file]
    if output is None and not page.missing():
        written.append(page.write(run_dir, available=available()))
    return content, written


def _count(samples: str | int) -> int:
    try:
        count = int(samples)
    except ValueError:
        count = 0
    if count < 1:
        raise InputError("--samples", f"is {samples}", "a whole number, at least 1")
    return count


def _target(output: Path) -> Path:
    if output.is_dir():
        raise InputError("--output", f"{output} is a folder", "a file to write")
    if not output.absolute().parent.is_dir():
        raise InputError("--output", f"{output.parent} is not a folder", "a file in a folder that exists")
    return output


def _alone(space: Space, config: Config) -> Config:
    """The scheme of each operator alone: the configuration's, or its first int8 one where that is floating point."""
    schemes = {
        name: next((s for s in space.schemes(space.group_of[name]) if not s.is_float), FLOAT)
        for name in config.float_ops
    }
    return config.with_ops(schemes)
