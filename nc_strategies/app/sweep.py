"""Sweeps: a failed job becomes a row and does not end the sweep; the comparison is in the sweep's folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from nc_strategies.app import status
from nc_strategies.app.logs import redact
from nc_strategies.app.run import run_job, say
from nc_strategies.errors import NcsError, first_line

log = logging.getLogger(__name__)
statuses: list[int] = []
"""Exit statuses of a finished sweep's jobs, including those that ran in other processes."""
launcher = ""
"""Name of the launcher that starts jobs in other processes; empty if this process runs them."""


def run_sweep_job(config: DictConfig, run_dir: Path) -> int:
    """Run one job of a sweep, and write a failed result for a job without a result."""
    from nc_strategies.report.result import failed, write_json
    from nc_strategies.study.folder import RESULT

    outcome = run_job(config, run_dir)
    if not (run_dir / RESULT).exists():
        run_dir.mkdir(parents=True, exist_ok=True)
        plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
        write_json(run_dir / RESULT, {**failed(plain, outcome.error), "exit_status": outcome.status})
    _keep_overrides(run_dir / RESULT)
    return outcome.status


def _keep_overrides(path: Path) -> None:
    """Add to a job's result what the command line set for it, which tells the rows of a comparison apart."""
    from nc_strategies.report.result import write_json

    parser = OverridesParser.create()
    given = {}
    for text in HydraConfig.get().overrides.task:
        override = parser.parse_override(text)
        given[override.key_or_group] = redact(str(override.value()))
    result = json.loads(path.read_text())
    if result.get("overrides") != given:
        write_json(path, {**result, "overrides": given})


class ComparisonTable(Callback):
    """Writes and prints the comparison at the end of a sweep."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """See Hydra's `Callback`."""
        global launcher
        chosen = config.hydra.runtime.choices.get("hydra/launcher")
        launcher = "" if chosen in (None, "basic") else str(chosen)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """See Hydra's `Callback`."""
        from nc_strategies.report import comparison, engines, table

        folder = Path(config.hydra.sweep.dir)
        results = comparison.collect(folder)
        comparison.write(folder, results)
        statuses.extend(status.of_result(result) for result in results)
        compared = _engines(folder, results)
        if compared["groups"]:
            comparison.write(folder, results, compared)
        say(f"comparison: {folder / 'comparison.md'}")
        table.show(lambda width: table.comparison(results, width))
        if compared["groups"]:
            table.show(lambda _: engines.render(compared))


def _engines(folder: Path, results: list[dict[str, Any]]) -> Mapping[str, Any]:
    """The comparison across a sweep's engines; no groups for one engine. If it fails, the sweep's own table stays."""
    from nc_strategies.app import compare
    from nc_strategies.report import engines

    if not compare.several_engines(results):
        return engines.NOTHING
    say("timing the saved models of all engines side by side")
    try:
        return compare.compare_sweep(folder, results)
    except NcsError as error:
        say(f"warning: the engines could not be compared: {error}")
    except Exception as error:
        log.exception("the engines could not be compared")
        say(f"warning: the engines could not be compared: {type(error).__name__}: {first_line(error)}")
    return engines.NOTHING
