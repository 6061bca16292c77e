"""``report.html`` and ``comparison.html``: self-contained pages that load nothing from the network.

Templates escape external text (names, error texts). The page's data reach the document as text only. A content security
policy allows only the page's own scripts.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import logging
import shlex
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nc_strategies.problem import Trial
from nc_strategies.report import analysis, charts, diagnosis, engines, explain, front, predictions, recovery, workers
from nc_strategies.report.facts import Available
from nc_strategies.report.machine import facts, machine_of, ratios
from nc_strategies.report.operators import Operator, operators
from nc_strategies.report.run_files import RunFiles
from nc_strategies.report.shown import LIMITS, operators_left_out, trials_left_out
from nc_strategies.report.table import LENGTH_COLUMNS, cells, columns, length_rows
from nc_strategies.report.vega import vega
from nc_strategies.runtime.files import write_atomically
from nc_strategies.study.study import Study, StudyListener

log = logging.getLogger(__name__)
FILE = "report.html"
HINT = "hint: pip install 'nc-strategies[report]' adds report.html, a page that shows the run"
TEMPLATES = Path(__file__).parent / "templates"
REFRESH_SECONDS = 5
"""Least time in seconds between two versions of the page of a running run."""
MAX_TIME_SHARE = 0.003
"""Largest share of a run's time that is spent on its page."""
MAX_CHOICES = 300_000
"""Largest number of operators times trials whose configurations are in a page, 2 to 3 bytes each; the journal has all
of them."""


def missing() -> bool:
    """Whether a package that pages need is missing."""
    return any(find_spec(name) is None for name in ("jinja2", "vl_convert"))


def write(
    run_dir: Path, running: bool = False, trials: Sequence[Trial] | None = None, available: Available | None = None
) -> Path:
    """Write the page of a run from the files in its folder.

    Args:
        run_dir: The run's folder.
        running: The run is still running, so that the page reloads itself.
        trials: The journal's trials, where they are read already.
        available: The components that can be chosen, see `nc_strategies.report.explain.advice`.

    Raises:
        InputError: `run_dir` is not the folder of a run.
    """
    run = RunFiles.read(run_dir, running, trials)
    path = run_dir / FILE
    write_atomically(path, _render("run.html.jinja", _scripts(), **_view(run, available)))
    return path


def write_comparison(folder: Path, results: Sequence[dict[str, Any]]) -> Path:
    """Write the page of a sweep."""
    chart = charts.comparison(results)
    rows = [
        {
            "cells": line,
            "status": str(result["status"]),
            "link": f"{result['run']}/{FILE}"
            if (folder / str(result.get("run", "")) / FILE).is_file() and result.get("run")
            else "",
        }
        for result, line in zip(results, cells(list(results)), strict=True)
    ]
    path = folder / "comparison.html"
    write_atomically(
        path,
        _render(
            "comparison.html.jinja",
            _scripts() if chart else [],
            columns=columns(list(results)),
            rows=rows,
            engines=_engines(folder),
            data={"charts": {"chart-comparison": chart} if chart else {}},
            chart=chart,
            running=False,
        ),
    )
    return path


def _engines(folder: Path) -> list[dict[str, Any]]:
    """Title, columns, rows and notes of each group of the comparison across engines."""
    return [
        {
            "title": engines.title(group),
            "columns": engines.COLUMNS,
            "rows": [engines.cells(line) for line in group["rows"]],
            "notes": engines.notes(group),
        }
        for group in engines.read(folder)["groups"]
    ]


def _scripts() -> list[str]:
    return [vega(), *((TEMPLATES / name).read_text(encoding="utf-8") for name in ("charts.js", "page.js"))]


def _render(template: str, scripts: list[str], **values: Any) -> str:
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return str(
        _environment()
        .get_template(template)
        .render(
            scripts=scripts,
            script_hashes=hashes or "'none'",
            style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
            json=_json(values.pop("data")),
            refresh=REFRESH_SECONDS,
            **values,
        )
    )


@functools.cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _json(data: Any) -> str:
    """JSON that is safe inside a script element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _stages(run: RunFiles) -> dict[str, float]:
    """Seconds by stage and in total; the time of estimates is separate from the strategy's."""
    seconds = dict(run.result.get("seconds") or {})
    estimates = run.analysis.get("estimate_seconds") or {}
    if "strategy" in seconds:
        seconds |= {**estimates, "strategy": max(0.0, seconds["strategy"] - sum(estimates.values()))}
    return seconds


def _view(run: RunFiles, available: Available | None) -> dict[str, Any]:
    rows = operators(run)
    drawn = _charts(run, rows)
    seconds, machine = _stages(run), machine_of(run)
    return {
        "run": run,
        "status": explain.status(run),
        "headline": explain.headline(run),
        "running": run.running,
        "goal": explain.goal_sentence(run),
        "verdict": explain.verdict(run),
        "why": explain.why(run, rows),
        "advice": explain.advice(run, rows, available),
        "cards": _cards(run),
        "command": command(run),
        "operators": rows[: LIMITS.operators],
        "left_out": trials_left_out(run),
        "operators_left_out": operators_left_out(len(rows)),
        "drawn": set(drawn),
        "trials": _trials(run),
        "total": seconds.pop("total", None),
        "seconds": sorted(seconds.items(), key=lambda item: -item[1]),
        "versions": run.result.get("versions") or run.analysis.get("versions") or {},
        "states": charts.STATES,
        "runs": {o.runs for o in rows},
        "priced": sum(o.loss is not None for o in rows),
        **_sources(rows),
        "told": any(t.error or t.note for t in run.shown),
        "recovery": recovery.table(run),
        "workers": workers.view(run),
        "diagnosis": diagnosis.view(run.diagnosis),
        "front": front.view(run),
        "machine": facts(machine) if machine else [],
        "ceiling": ratios(machine) if machine else [],
        "tuned": run.result.get("tuned"),
        "length_columns": LENGTH_COLUMNS,
        "by_length": length_rows(run.result) if run.result.get("tuned") else [],
        "known": bool(run.analysis),
        "data": {"charts": drawn, **_configs(run)},
    }


def _charts(run: RunFiles, rows: Sequence[Operator]) -> dict[str, charts.Spec]:
    """The charts of a run, without the empty ones."""
    loss, saved = charts.price(rows, run.metric)
    found = {
        "chart-trade-off": charts.trade_off(run),
        "chart-front": charts.measured_front(run),
        "chart-search": charts.search(run),
        "chart-loss": loss,
        "chart-saved": saved,
        "chart-predictions": predictions.chart(run),
        **diagnosis.charts_of(run.diagnosis),
    }
    return {name: spec for name, spec in found.items() if spec}


def _sources(rows: Sequence[Operator]) -> dict[str, str]:
    """Sentences on the source of the operators' effects: measurements or estimates."""
    measured = charts.measured([o for o in rows if o.asked])
    modelled = any(o.model_saved is not None for o in rows)
    return {
        "loss_from": "Measured by the trials."
        if measured
        else "Estimated: squared error over squared output with this operator alone in int8.",
        "saved_from": "By the latency model, as a share of fp32's."
        if modelled
        else "Measured by the trials, as a share of fp32's latency.",
    }


def command(run: RunFiles) -> str:
    """The command line that repeats a run in a new folder; empty for a run from Python."""
    arguments = [str(a) for a in run.analysis.get("command") or []]
    if not arguments:
        return ""
    kept = [a for a in arguments[1:] if not a.startswith("run_dir=")]
    return " ".join([arguments[0], *map(shlex.quote, kept), "run_dir=NEW_FOLDER"])


def _cards(run: RunFiles) -> list[tuple[str, str, str]]:
    """Label, figure and annotation of each card."""
    tuned, base, goal = run.result.get("tuned"), run.baseline, run.goal
    if not tuned or goal is None:
        return [("Trials so far", str(len(run.trials)), "")] if run.running else []
    asked = goal.constraints[0]
    low, high = run.result["speedup_ci95"]
    interval = tuned.get("accuracy_loss_ci95")
    return [
        ("Speed-up", f"{run.result['speedup']:.2f} times", f"95 %: {low:.2f} to {high:.2f}"),
        (
            f"Loss of {run.metric}",
            f"{asked.loss(tuned['accuracy']):+.4f}",
            f"95 %: {interval[0]:+.4f} to {interval[1]:+.4f}; {asked.loss(asked.threshold):.4f} tolerated"
            if interval
            else "",
        ),
        ("Latency", f"{tuned['latency_ms']:.3g} ms", f"fp32: {base['latency_ms']:.3g} ms"),
        ("Size", f"{tuned['size_bytes'] / 1000:,.0f} kB", f"fp32: {base['size_bytes'] / 1000:,.0f} kB"),
        (
            "Operators in int8",
            f"{tuned['int8_ops']} of {tuned['int8_ops'] + tuned['fp32_ops']}",
            "as the engine executes them",
        ),
    ]


def _trials(run: RunFiles) -> list[dict[str, Any]]:
    chosen = run.chosen
    lines = []
    for trial in run.shown:
        done = trial.evaluation
        lines.append(
            {
                "number": trial.number,
                "state": run.state(trial),
                "chosen": chosen is not None and trial is chosen,
                "accuracy": done.metric("accuracy") if done else None,
                "loss": run.goal.loss(done) if done and run.goal else None,
                "latency": charts.position(run, done) if done and run.goal else None,
                "gain": run.gain(done) if done else None,
                "int8": done.int8_ops if done else None,
                "seconds": sum(value for _, value in done.seconds) if done else None,
                "text": trial.error or trial.note,
            }
        )
    return lines


def _configs(run: RunFiles) -> dict[str, Any]:
    """Configurations of trials as indices of schemes: the chosen trial's first, then by interest, as many as fit."""
    names = run.trials[0].config.names if run.trials else ()
    schemes: dict[str, int] = {}
    number_of: dict[str, int] = {}
    configs: dict[str, Any] = {}
    chosen = run.chosen
    for trial in run.by_interest:
        if configs and (len(configs) + 1) * len(names) > MAX_CHOICES:
            break
        config = trial.config
        if config.names == names:
            for code in dict.fromkeys(config.codes):
                if code not in number_of:
                    number_of[code] = schemes.setdefault(str(config.scheme_of(code)), len(schemes))
            numbers = [number_of[code] for code in config.codes]
            configs[str(trial.number)] = {"ops": numbers, "options": [[k, str(v)] for k, v in config.options]}
    types = {name: facts["type"] for name, facts in (run.analysis.get("operators") or {}).items()}
    return {
        "operators": [[name, types.get(name, "")] for name in names],
        "schemes": list(schemes),
        "configs": configs,
        "chosen": chosen.number if chosen else None,
    }


class PageWriter(StudyListener):
    """Updates a run's page during the run, and writes its last version at the end.

    It writes between trials, and while an evaluation waits for it, in the run's own thread, so that it does not disturb
    timing, and takes a small share of the run's time. A failure to write the page is logged and does not end the run.

    Args:
        command: Arguments of the command line that started the run, without secrets.
        make: Writes the page of a folder.
        clock: Seconds of the run.
    """

    def __init__(
        self,
        command: Sequence[str] = (),
        make: Callable[[Path, bool, Sequence[Trial]], Path] = write,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._command, self._make, self._clock = tuple(command), make, clock or time.monotonic
        self._next = 0.0
        self._study: Study | None = None
        self._pages = not missing()

    def __enter__(self) -> PageWriter:
        return self

    def __exit__(self, *_: object) -> None:
        """Write a page that no longer reloads itself, also after an error."""
        if self._study is not None:
            self._write(self._study, running=False)
            self._study = None

    def started(self, study: Study, max_trials: int, timeout: float) -> None:
        """See `StudyListener.started`."""
        self._study = study
        self._write(study, running=True)
        # The first page also bundles the scripts and loads the templates: its time does not predict that of the next.
        self._next = self._clock() + REFRESH_SECONDS

    def trial_finished(self, study: Study, trial: Trial) -> None:
        """See `StudyListener.trial_finished`."""
        if self._clock() >= self._next:
            self._write(study, running=True)

    def workers(self, study: Study) -> None:
        """See `StudyListener.workers`. The process that times waits meanwhile."""
        if self._study is not None and time.monotonic() >= self._next:
            self._write(study, running=True)

    def finished(self, study: Study) -> None:
        """See `StudyListener.finished`."""
        self._write(study, running=False)
        self._study = None

    def _write(self, study: Study, running: bool) -> None:
        begin = self._clock()
        try:
            analysis.write(study, self._command)
            if self._pages:
                self._make(study.run_dir, running, study.trials)
        except Exception:  # A page that fails must not end the run.
            log.exception("the page could not be written")
        end = self._clock()
        self._next = end + max(REFRESH_SECONDS, (end - begin) / MAX_TIME_SHARE)
