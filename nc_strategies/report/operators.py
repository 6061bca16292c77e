"""Effect of int8 on accuracy and time per operator, and why each operator ended in int8 or in float."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.problem import Trial
from nc_strategies.report.least_squares import Fit, fits
from nc_strategies.report.run_files import RunFiles
from nc_strategies.space import Config, OpScheme

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
    listed = set(order)
    order = [*order, *(name for name in known.schemes if name not in listed)]
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
            None if executed is None else frozenset(executed),
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
    most = max(map(len, group_of.values()), default=1)
    own_names, own_set = chosen.config.names, set(chosen.config.names)
    found: dict[str, str] = {}
    for trial in run.trials:
        config = trial.config
        if config.options != chosen.config.options:
            continue
        if config.names != own_names:
            if set(config.names) != own_set:
                continue
        elif _differ(config, chosen.config, most):
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


def _differ(one: Config, other: Config, most: int) -> bool:
    """Whether configurations of the same operators differ in more than some, without a look at all operators."""
    differing = (a != b for a, b in zip(one.codes, other.codes, strict=True))
    return sum(itertools.islice(filter(None, differing), most + 1)) > most


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
    names = trials[0][0].config.names if trials else ()
    if run.goal is None or not names:
        return {}, {}
    groups, columns = _moved_together([t for t, _ in trials], names)
    design = np.column_stack([np.ones(len(trials), np.uint8), columns, *_options([t for t, _ in trials])])
    losses = np.array([run.goal.loss(done) for _, done in trials])
    ratios = np.array([dict(done.ratios).get("latency", math.nan) for _, done in trials])
    tied = [set(group) for group in run.analysis.get("tied") or []]
    determined = [len(group) == 1 or any(set(group) <= one for one in tied) for group in groups]

    def by_name(fit: Fit | None) -> dict[str, Price]:
        if fit is None:
            return {}
        return {
            name: Price(float(fit.terms[column]), float(fit.reach[column]))
            for column, (group, is_determined) in enumerate(zip(groups, determined, strict=True), 1)
            if is_determined and fit.known[column]
            for name in group
        }

    loss, saved = fits(design, [losses, 1 - ratios])
    return by_name(loss), by_name(saved)


def _moved_together(trials: Sequence[Trial], names: tuple[str, ...]) -> tuple[list[list[str]], NDArray[np.uint8]]:
    """Groups of operators that are in int8 in the same trials, and 1 for int8, shape (trials, groups)."""
    flags = np.empty((len(names), len(trials)), np.uint8)
    for index, trial in enumerate(trials):
        config = trial.config
        # Lines of one journal may name the same operators in another order.
        same = config if config.names == names else Config(tuple((name, config.schemes[name]) for name in names))
        flags[:, index] = np.frombuffer(same.int8_flags, np.uint8)
    groups: dict[bytes, list[int]] = {}
    for row in range(len(names)):
        groups.setdefault(flags[row].tobytes(), []).append(row)
    return [[names[row] for row in rows] for rows in groups.values()], flags[[rows[0] for rows in groups.values()]].T


def _options(trials: Sequence[Trial]) -> list[NDArray[np.uint8]]:
    """A column of zeros and ones, shape (trials,), for every value of a graph option but the first."""
    pairs = {pair: None for t in trials for pair in t.config.options}
    first = dict(reversed(list(pairs)))
    return [
        np.array([pair in t.config.options for t in trials], np.uint8) for pair in pairs if first[pair[0]] != pair[1]
    ]
