"""One job: build the components from the configuration, run the study, write the result."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nc_strategies.app import status
from nc_strategies.app.logs import RunLog, redact
from nc_strategies.app.settings import run_config
from nc_strategies.config import RunConfig
from nc_strategies.errors import EngineError, InputError, first_line
from nc_strategies.problem import Trial, TrialState
from nc_strategies.registry import Registry, registry
from nc_strategies.study.study import Study, StudyListener

if TYPE_CHECKING:
    from nc_strategies.study.folder import RunFolder
    from nc_strategies.study.setup import Setup

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        status: Exit status.
        error: One line with the reason for a missing result; empty with a result.
    """

    status: int
    error: str = ""


def run_job(config: DictConfig, run_dir: Path) -> Outcome:
    """Run one job and print its table, or one line with the reason for a missing result."""
    run_log = RunLog()
    try:
        return Outcome(_run(config, run_dir, run_log))
    except InputError as error:
        return _failed(status.INPUT, f"error: {error}")
    except KeyboardInterrupt:
        return _failed(status.INTERRUPTED, _interrupted(run_dir))
    except EngineError as error:
        log.exception("the run failed")
        return _failed(status.INTERNAL, f"error: {first_line(error)}")
    except Exception as error:
        log.exception("internal error")
        where = run_dir / "nc_strategies.log"
        hint = f"; traceback in {where}" if where.exists() else f"\n{traceback.format_exc()}"
        return _failed(status.INTERNAL, f"internal error: {type(error).__name__}: {first_line(error)}{hint}")
    finally:
        run_log.close()


def _interrupted(run_dir: Path) -> str:
    from nc_strategies.study.journal import FILE

    if not (run_dir / FILE).exists():
        return "interrupted before anything was measured"
    return f"interrupted; what was measured is kept in {run_dir}, and the same command goes on from there"


def _failed(code: int, text: str) -> Outcome:
    say(text)
    return Outcome(code, redact(text.splitlines()[0]).removeprefix("error: "))


def _run(config: DictConfig, run_dir: Path, run_log: RunLog) -> int:
    from nc_strategies.app import target as targets
    from nc_strategies.report.table import render, show
    from nc_strategies.study.folder import RunFolder
    from nc_strategies.study.setup import Setup

    found = registry()
    for name, why in found.broken.items():
        say(f"warning: plugin {name} is left out ({why})")
    try:
        resolved = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        # Imported here: runs from Python do not need Hydra.
        from nc_strategies.app.hydra_errors import as_input_error

        raise as_input_error(error) from None
    resolved.pop("run_dir", None)
    settings = run_config(resolved)
    resolved.pop("plan", None)
    resolved["space"] = asdict(settings.space)
    resolved["metrics"] = asdict(settings.metrics)
    resolved["tuning"] = asdict(settings.tuning)
    folder = RunFolder(run_dir)
    strategy = found.settings("strategy", settings.strategy)
    make = found.target(found.get("strategy", settings.strategy["name"]))
    make.check(strategy)
    found.settings("tracker", settings.tracker)
    with ExitStack() as stack:
        stack.enter_context(folder.lock())
        target = targets.start(settings)
        stack.callback(target.close)
        setup = Setup(
            settings,
            target,
            lambda problem: make(strategy, problem),
            found.create("executor", settings.executor),
            resolved,
            partial(make.check_model, strategy),
        )
        if settings.plan:
            return _plan(setup, _Observers(found, StudyListener(), _progress(stack), resolved))
        result = execute(found, setup, folder, run_log)
    show(lambda width: render(result, str(run_dir), width))
    return status.of_result(result)


def execute(found: Registry, setup: Setup, folder: RunFolder, run_log: RunLog) -> dict[str, Any]:
    """Run a study, or return the result of an earlier one with the same configuration; observers get its events.

    Returns:
        The content of ``result.json``.

    Raises:
        InputError: see `nc_strategies.study.tune.tune`.
    """
    from nc_strategies.app.listing import available
    from nc_strategies.report import page
    from nc_strategies.report import result as results
    from nc_strategies.study.folder import LOG
    from nc_strategies.study.tune import tune

    earlier = _finished(folder, setup.config)
    if earlier is not None:
        folder.check(_identity(setup, folder))
        return earlier
    with ExitStack() as stack:
        tracker = setup.config.tracker
        stack.enter_context(found.observing(tracker["name"], found.create("tracker", tracker)))
        make_page = partial(page.write, available=available(found))
        writer = stack.enter_context(page.PageWriter(_command(), make_page))
        listener: StudyListener = _Observers(found, writer, _progress(stack), setup.resolved)
        study = tune(setup, folder, listener, lambda: run_log.open(folder.path / LOG))
        result = results.write(study, setup)
        listener.finished(study)
    if page.missing():
        say(page.HINT)
    return result


def _command() -> list[str]:
    """The command line that started this job, without secrets; empty for a run from Python."""
    if "hydra" not in sys.modules:
        return []
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized() or HydraConfig.get().job.name != "nc_strategies":
        return []
    hydra = HydraConfig.get()
    arguments = ["python -m nc_strategies"]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            arguments += ["--config-dir", source.path]
    if hydra.job.config_name != "config":
        arguments += ["--config-name", str(hydra.job.config_name)]
    return [redact(argument) for argument in [*arguments, *hydra.overrides.task]]


def _plan(setup: Setup, listener: StudyListener) -> int:
    from nc_strategies.report.plan import render
    from nc_strategies.report.table import show
    from nc_strategies.study.plan import plan

    found = plan(setup, listener)
    show(lambda _: render(found))
    return status.MET


def _finished(folder: RunFolder, settings: RunConfig) -> dict[str, Any] | None:
    """The result of an earlier run in this folder that used the whole requested budget; None without one."""
    earlier = folder.result() if folder.resumes else None
    if earlier is None or earlier.get("stop_reason") in ("interrupted", "stopped") or earlier.get("status") == "failed":
        return None
    tuning = settings.tuning
    before = dict(earlier.get("budget") or {})
    if tuning.front not in (0, before.pop("front", 0)):
        return None
    now = {"max_trials": tuning.max_trials, "timeout": tuning.timeout, "stop_when": tuning.stop_when}
    return earlier if before == now or earlier.get("stop_reason") == "finished" else None


def _identity(setup: Setup, folder: RunFolder) -> dict[str, Any]:
    """The identity of this run without opening the model again: the space is that of the earlier run."""
    from nc_strategies.study.setup import choose_metric, identity

    choose_metric(setup)
    before = folder.config["identity"]
    return identity(setup, str(before.get("space")))


def _progress(stack: ExitStack) -> StudyListener:
    if not sys.stderr.isatty():
        return _Notices()
    from nc_strategies.report.progress import ProgressLine

    return stack.enter_context(ProgressLine())


def say(text: str) -> None:
    """Write one line to standard error, with secrets masked."""
    sys.stderr.write(f"{redact(text)}\n")


class _Notices(StudyListener):
    """Shows notices on standard error, but no progress."""

    def notice(self, text: str) -> None:
        say(f"warning: {text}")


class _Observers(StudyListener):
    """Passes events to the page, the progress line and plugins."""

    def __init__(
        self, found: Registry, writer: StudyListener, progress: StudyListener, config: Mapping[str, Any]
    ) -> None:
        self._found, self._writer, self._progress, self._config = found, writer, progress, config

    def stage(self, text: str) -> None:
        log.info("%s", text)
        self._progress.stage(text)

    def started(self, study: Study, max_trials: int, timeout: float) -> None:
        self._progress.started(study, max_trials, timeout)
        self._writer.started(study, max_trials, timeout)
        self._found.notify("ncs_study_started", study=study, config=self._config, notice=self.notice)

    def notice(self, text: str) -> None:
        log.warning("%s", text)
        self._progress.notice(text)

    def trial_started(self, number: int, stage: str) -> None:
        self._progress.trial_started(number, stage)

    def trial_finished(self, study: Study, trial: Trial) -> None:
        done = trial.evaluation
        how = f" (stopped after {done.samples} samples)" if done and trial.state is TrialState.PRUNED else ""
        log.info(
            "trial %d%s %s: %s%s",
            trial.number,
            " (resumed)" if trial.resumed else "",
            trial.note,
            trial.error or (done and f"{done.metric('accuracy'):.4f}, {1 / done.ratio('latency'):.2f} times fp32"),
            how,
        )
        self._progress.trial_finished(study, trial)
        self._writer.trial_finished(study, trial)
        self._found.notify("ncs_trial_finished", study=study, trial=trial)

    def workers(self, study: Study) -> None:
        self._progress.workers(study)
        self._writer.workers(study)

    def finished(self, study: Study) -> None:
        self._writer.finished(study)
        self._found.notify("ncs_study_finished", study=study)
