"""A finished run read from its folder, for Python and notebooks."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import Any

from nc_strategies.errors import InputError, first_line
from nc_strategies.measuring.core import METRIC
from nc_strategies.problem import Trial
from nc_strategies.report.table import COLUMNS, row, verdict
from nc_strategies.study.folder import RESULT, read_json
from nc_strategies.study.journal import Journal


class Study:
    """A finished run, from Python or from the command line.

    Args:
        run_dir: The run's folder.

    Raises:
        InputError: the folder holds no result.

    Attributes:
        run_dir: The folder.
        result: Content of ``result.json``.
        trials: All trials in their order.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir = Path(run_dir)
        try:
            self.result: dict[str, Any] = read_json(self.run_dir / RESULT)
        except (OSError, ValueError) as error:
            raise InputError(
                "run_dir", f"{self.run_dir} holds no result ({first_line(error)})", "the folder of a finished run"
            ) from None
        self.trials: list[Trial] = Journal(self.run_dir, METRIC).read()

    @property
    def status(self) -> str:
        """``met``, ``missed`` (the closest model is saved) or ``failed``."""
        return str(self.result["status"])

    @property
    def model_path(self) -> Path | None:
        """The saved model; None when no configuration could be measured."""
        found = self.result.get("model_path")
        return self.run_dir / found if found else None

    @property
    def front(self) -> list[dict[str, Any]]:
        """Points of the measured Pareto front, from fp32 to the fastest, as in ``front.json``; empty without one."""
        return list((self.result.get("front") or {}).get("points", ()))

    @property
    def best(self) -> Trial | None:
        """The trial whose model was saved."""
        number = (self.result.get("tuned") or {}).get("trial")
        return next((trial for trial in self.trials if trial.number == number), None)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per trial, with the columns of `to_dataframe` as keys.

        ``fp32_latency_ms`` was timed side by side with the trial; divided by ``latency_ms`` it is ``speedup``.
        """
        return [_row(trial) for trial in self.trials]

    def to_dataframe(self) -> Any:
        """`rows` as a pandas DataFrame, indexed by trial number.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise InputError(
                "to_dataframe",
                f"pandas cannot be imported ({first_line(error)})",
                "pip install 'nc-strategies[notebook]'",
            ) from error
        return pandas.DataFrame(self.rows(), columns=list(_FIELDS)).set_index("number")

    def plot(self) -> Any:
        """Accuracy against speed-up of every trial, with fp32, the threshold and the chosen model.

        Returns:
            A matplotlib figure.

        Raises:
            InputError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise InputError(
                "plot", f"matplotlib cannot be imported ({first_line(error)})", "pip install 'nc-strategies[notebook]'"
            ) from error
        # Not by pyplot, which would keep a reference to the figure and open windows.
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        measured = [entry for entry in self.rows() if entry["accuracy"] is not None]
        axes.scatter(
            [e["speedup"] for e in measured], [e["accuracy"] for e in measured], s=24, color="#4477aa", label="trials"
        )
        axes.scatter([1.0], [self.result["baseline"]["accuracy"]], marker="s", color="black", label="fp32")
        axes.axhline(self.result["goal"]["threshold"], color="#bbbbbb", linestyle="--", label="threshold")
        if self.result["tuned"]:
            axes.scatter(
                [self.result["speedup"]],
                [self.result["tuned"]["accuracy"]],
                marker="*",
                s=160,
                color="#cc6677",
                label="saved model",
                zorder=3,
            )
        axes.set(
            xlabel="speed-up over fp32",
            ylabel=self.result["goal"]["metric"],
            title=f"{self.result['model']}: {self.result['strategy']} on {self.result['backend']}",
        )
        axes.legend()
        return figure

    def __repr__(self) -> str:
        return f"Study({str(self.run_dir)!r}: {verdict(self.result).plain})"

    def _repr_html_(self) -> str:
        header = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
        body = "".join(f"<td>{html.escape(cell)}</td>" for cell in row(self.result))
        return (
            f"<p><b>{html.escape(verdict(self.result).plain)}</b></p><table><thead><tr>{header}</tr></thead>"
            f"<tbody><tr>{body}</tr></tbody></table><p>{html.escape(str(self.model_path))}</p>"
        )


_FIELDS = (
    "number",
    "state",
    "accuracy",
    "latency_ms",
    "fp32_latency_ms",
    "speedup",
    "size_bytes",
    "int8_ops",
    "fp32_ops",
    "note",
    "error",
)


def _row(trial: Trial) -> dict[str, Any]:
    done = trial.evaluation
    values: dict[str, Any] = dict.fromkeys(_FIELDS)
    values |= {"number": trial.number, "state": str(trial.state), "note": trial.note, "error": trial.error}
    if done is not None:
        known, ratio = dict(done.values), dict(done.ratios).get("latency", math.nan)
        values |= {
            "accuracy": dict(done.metrics).get(METRIC),
            "latency_ms": known.get("latency_ms"),
            "fp32_latency_ms": known.get("fp32_latency_ms"),
            "speedup": 1 / ratio,
            "size_bytes": int(known.get("size_bytes", 0)),
            "int8_ops": done.int8_ops,
            "fp32_ops": done.fp32_ops,
        }
    return values
