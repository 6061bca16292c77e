"""Effect of int8 on accuracy and time per operator, and why each operator ended in int8 or in float."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.measuring.student import t_95
from nc_strategies.problem import Trial
from nc_strategies.report.run_files import RunFiles
from nc_strategies.space import OpScheme

MIN_RESIDUAL_FREEDOM = 3
"""Residual degrees of freedom below which no effect is reported."""
MIN_TERM_RESOLUTION = 1 - 1e-6
"""Diagonal element of the resolution matrix, 1 for a term that the trials determine, above which a term is reported."""
FIXED_REASON = "no choice: the engine runs it in float, or fused with a neighbour"


@dataclass(frozen=True)
class Price:
    """Effect of int8 instead of float, all else equal, with the half-width of its 95 % interval."""

    value: float
    reach: float

    @property
    def sure(self) -> bool:
        """Whether the interval excludes zero."""
        return abs(self.value) > self.reach


@dataclass(frozen=True)
class Operator:
    """One operator in the report.

    Args:
        position: In execution order, from 1.
        name: Its name.
        type: Its type; empty for one without a choice.
        asked: ``int8``, ``fp32``, or empty for one without a choice.
        executed: ``int8``, ``fp32``, or empty where the engine does not report it.
        scheme: The requested scheme as text.
        loss: Loss of the metric by the trials, positive is worse; None where they do not determine it.
        saved: Share of fp32's latency that int8 saves by the trials; None where they do not determine it.
        noise: Noise-to-signal ratio of the output with this operator alone in int8; None when not estimated.
        model_saved: Share of fp32's latency that int8 saves by the latency model; None without one.
        reason: Why it ended in int8 or in float.
    """

    position: int
    name: str
    type: str
    asked: str
    executed: str
    scheme: str = ""
    loss: Price | None = None
    saved: Price | None = None
    noise: float | None = None
    model_saved: float | None = None
    reason: str = ""

    @property
    def runs(self) -> str:
        """``int8``, ``fp32``, ``lost`` (asked for in int8, executed in float), or ``none`` without a choice."""
        if not self.asked and self.executed != "int8":
            return "none"
        if self.asked == "int8" and self.executed == "fp32":
            return "lost"
        return "int8" if "int8" in (self.asked, self.executed) else "fp32"


def operators(run: RunFiles) -> list[Operator]:
    """All operators of the chosen trial's model in execution order; empty without a trial."""
    chosen = run.chosen
    if chosen is None:
        return []
    known = _Known.of(run, chosen)
    order = run.analysis.get("order") or list(known.schemes)
    order = [*order, *(name for name in known.schemes if name not in set(order))]
    return [known.operator(position, name) for position, name in enumerate(order, 1)]


@dataclass(frozen=True)
class _Known:
    """What is known of operators, by name.

    Args:
        run: The run.
        schemes: The schemes that the chosen trial requests.
        facts: Type, and possible precisions.
        executed_int8: Operators that the engine executes in int8; None where it does not report them.
        loss: Loss of the metric by the trials.
        saved: Share of fp32's latency that int8 saves, by the trials.
        noise: Noise-to-signal ratio, None where it is infinite.
        modelled: Share of fp32's latency that int8 saves, by the latency model.
        ranks: Rank by `noise`, from 1.
        changes: Result of a trial that differs from the chosen one in this operator alone.
    """

    run: RunFiles
    schemes: Mapping[str, OpScheme]
    facts: Mapping[str, Mapping[str, Any]]
    executed_int8: Collection[str] | None
    loss: Mapping[str, Price]
    saved: Mapping[str, Price]
    noise: Mapping[str, float | None]
    modelled: Mapping[str, float]
    ranks: Mapping[str, int]
    changes: Mapping[str, str]

    @staticmethod
    def of(run: RunFiles, chosen: Trial) -> _Known:
        facts, noise = run.analysis.get("operators") or {}, run.analysis.get("sensitivity") or {}
        modelled = (run.analysis.get("latency") or {}).get("saved") or {}
        loss, saved = prices(run)
        executed = run.analysis.get("executed_int8")
        return _Known(
            run,
            chosen.config.schemes,
            facts,
            executed,
            loss,
            saved,
            noise,
            modelled,
            _ranks(noise),
            _single_changes(run, chosen),
        )

    def operator(self, position: int, name: str) -> Operator:
        """The operator with a name."""
        scheme = self.schemes.get(name)
        asked = "" if scheme is None else _precision(not scheme.is_float)
        executed = "" if self.executed_int8 is None else _precision(name in self.executed_int8)
        reason = (
            _forced(asked, executed, self.facts.get(name))
            or self.changes.get(name)
            or self._priced(name)
            or "the trials do not tell it apart: the strategy's choice"
        )
        return Operator(
            position,
            name,
            str((self.facts.get(name) or {}).get("type", "")),
            asked,
            executed,
            str(scheme or ""),
            self.loss.get(name),
            self.saved.get(name),
            self.noise.get(name),
            self.modelled.get(name),
            reason,
        )

    def _priced(self, name: str) -> str:
        """An operator's effect by the trials, or else its rank by estimated sensitivity; empty without either."""
        loss, saved, parts = self.loss.get(name), self.saved.get(name), []
        if loss is not None and loss.sure:
            verb = "costs" if loss.value > 0 else "gains"
            parts.append(f"int8 {verb} {abs(loss.value):.4f} {self.run.metric} by the trials")
        if saved is not None and saved.sure:
            parts.append(f"int8 {'saves' if saved.value > 0 else 'adds'} {abs(saved.value):.1%} of the latency")
        if not parts and name in self.ranks:
            parts.append(f"number {self.ranks[name]} of {len(self.ranks)} by estimated sensitivity")
        return "; ".join(parts)


def _precision(is_int8: bool) -> str:
    return "int8" if is_int8 else "fp32"


def _ranks(noise: Mapping[str, float | None]) -> dict[str, int]:
    ordered = sorted(noise, key=lambda name: -math.inf if noise[name] is None else -float(noise[name] or 0.0))
    return {name: rank for rank, name in enumerate(ordered, 1)}


def _forced(asked: str, executed: str, facts: Mapping[str, Any] | None) -> str:
    """Why an operator's precision was fixed; empty where the strategy chose it."""
    if not asked:
        return "no choice: follows its neighbours" if executed == "int8" else FIXED_REASON
    if facts is not None and not facts["int8"]:
        return _held_in_float(facts)
    if asked == "int8" and executed == "fp32":
        return "asked for in int8, but the engine ran it in float"
    return "held in int8 by your overrides" if facts is not None and not facts["float"] else ""


def _held_in_float(facts: Mapping[str, Any]) -> str:
    if not facts["engine_int8"]:
        return FIXED_REASON
    return "held in fp32: int8 is only used on request" if facts["opt_in"] else "held in fp32 by your overrides"


def _single_changes(run: RunFiles, chosen: Trial) -> dict[str, str]:
    """Results of trials that differ from the chosen one only in one operator and those tied to it, by operator."""
    group_of = {name: frozenset(group) for group in run.analysis.get("tied") or [] for name in group}
    mine = chosen.config.schemes
    found: dict[str, str] = {}
    for trial in run.trials:
        if trial.config.schemes.keys() != mine.keys() or trial.config.options != chosen.config.options:
            continue
        changed = trial.config.diff(chosen.config)
        name = next(iter(changed), "")
        if not name or set(changed) - group_of.get(name, {name}):
            continue
        theirs, own = changed[name]
        if theirs.is_float != own.is_float:
            text = _shown(run, trial, "in float" if theirs.is_float else "in int8")
            for each in changed:
                found.setdefault(each, text)
    return found


def _shown(run: RunFiles, trial: Trial, turned: str) -> str:
    done = trial.evaluation
    if not trial.ok or done is None:
        return f"{turned} the model failed (trial {trial.number})"
    gain = run.gain(done)
    kept = "kept" if run.state(trial) == "kept" else "missed the goal"
    speed = f" at {gain:.2f} times fp32" if gain else ""
    return f"{turned}: {run.metric} {done.metric('accuracy'):.4f} ({kept}){speed} (trial {trial.number})"


def prices(run: RunFiles) -> tuple[dict[str, Price], dict[str, Price]]:
    """Effect of int8 per operator on the loss and on the saved latency, by least squares over the trials.

    The model has a constant, one term per group of operators that always change together, and one term per value of a
    graph option. Other choices (granularity, algorithm) count as noise. A group is left out when the trials do not
    determine its term; all groups are left out below three residual degrees of freedom. Source: ordinary least squares,
    intervals by Student's t.

    Returns:
        Operator name to effect on the loss (positive is worse) and on latency (positive is saved).
    """
    trials = [(t, t.evaluation) for t in run.trials if t.ok and t.evaluation is not None]
    names = list(trials[0][0].config.schemes) if trials else []
    if run.goal is None or not names:
        return {}, {}
    groups, columns = _moved_together([t for t, _ in trials], names)
    design = np.column_stack([np.ones(len(trials)), columns, *_options([t for t, _ in trials])])
    losses = np.array([run.goal.loss(done) for _, done in trials])
    ratios = np.array([dict(done.ratios).get("latency", math.nan) for _, done in trials])
    determined = [len(group) == 1 or _tied(run, group) for group in groups]

    def by_name(values: NDArray[np.float64]) -> dict[str, Price]:
        effects = _effects(design, values)[: len(groups)]
        return {
            name: effect
            for group, effect, is_determined in zip(groups, effects, determined, strict=True)
            if effect and is_determined
            for name in group
        }

    return by_name(losses), by_name(1 - ratios)


def _moved_together(trials: Sequence[Trial], names: Sequence[str]) -> tuple[list[list[str]], NDArray[np.float64]]:
    """Groups of operators that are in int8 in the same trials, and 1 for int8, shape (trials, groups)."""
    flags = np.array([[not t.config.schemes[n].is_float for n in names] for t in trials], dtype=float)
    groups: dict[bytes, list[str]] = {}
    for column, name in enumerate(names):
        groups.setdefault(flags[:, column].tobytes(), []).append(name)
    return list(groups.values()), np.array([np.frombuffer(key) for key in groups]).T


def _options(trials: list[Trial]) -> list[NDArray[np.float64]]:
    """A column of zeros and ones, shape (trials,), for every value of a graph option but the first."""
    pairs = {pair: None for t in trials for pair in t.config.options}
    first = dict(reversed(list(pairs)))
    return [np.array([float(pair in t.config.options) for t in trials]) for pair in pairs if first[pair[0]] != pair[1]]


def _tied(run: RunFiles, group: list[str]) -> bool:
    """Whether operators changed together because they are tied, so that their joint effect holds for each."""
    return any(set(group) <= set(tied) for tied in run.analysis.get("tied") or [])


def _effects(design: NDArray[np.float64], values: NDArray[np.float64]) -> list[Price | None]:
    none: list[Price | None] = [None] * (design.shape[1] - 1)
    rank = int(np.linalg.matrix_rank(design))
    freedom = len(values) - rank
    if freedom < MIN_RESIDUAL_FREEDOM or not np.isfinite(values).all():
        return none
    inverse = np.linalg.pinv(design)
    terms = inverse @ values
    variance = float(((values - design @ terms) ** 2).sum()) / freedom
    reach = t_95(freedom) * np.sqrt(variance * (inverse**2).sum(1))
    known = np.diag(inverse @ design) > MIN_TERM_RESOLUTION
    return [Price(float(terms[i]), float(reach[i])) if known[i] else None for i in range(1, design.shape[1])]
