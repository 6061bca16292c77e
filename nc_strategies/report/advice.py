"""Advice after a run: one function per piece of advice, in the order of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from nc_strategies.report.facts import Facts, listed

Rule = Callable[[Facts], str | None]
"""Returns a piece of advice, or None where it does not apply."""


@dataclass(frozen=True)
class Limits:
    """Limits from which advice is given.

    Args:
        unsteady_gain: Relative difference between a trial's speed-up and the final one above which timing is called
            unsteady. It is several times the few percent by which latency varies between sessions of the same graph.
        late_share: Share of the trials. A best trial after this share suggests that a larger budget finds a better one.
        rounding_loss: Loss that is added before rounding to three digits, so that the proposed
            ``tuning.tolerable_loss`` is never below the measured loss.
    """

    unsteady_gain: float = 0.25
    late_share: float = 0.8
    rounding_loss: float = 5e-4


LIMITS = Limits()
WITHOUT_A_MODEL = ("random", "basic", "conservative", "mse", "mse_v2", "hawq_v2")
"""Strategies that do not predict what a configuration costs and loses."""
OPTIONAL = {
    ("strategy", "sigopt"): "pip install nc-strategies-sigopt",
    ("backend", "onnxruntime"): "pip install 'nc-strategies[onnxruntime]'",
    ("backend", "tensorflow"): "pip install 'nc-strategies[tensorflow]'",
}
"""Recommended component outside the core, which may not be registered, to the command that installs it."""
TENSORFLOW_MODELS = ("sample", "keras", "saved_model", "graph_def", "keras_applications")
"""Values of ``model`` whose format both the tensorflow and the onnxruntime backend accept."""
OWN_MODELS = (*TENSORFLOW_MODELS, "onnx", "huggingface", "python", "sample_text")
"""Values of ``model`` whose format a backend of the project accepts; a plugin's format may be read by its own alone."""


def choice(facts: Facts, kind: str, name: str) -> str:
    """``kind=name``, with the command that installs the component where a package is missing."""
    lacking = facts.available.get((kind, name), OPTIONAL.get((kind, name), ""))
    return f"{kind}={name} (after {lacking})" if lacking else f"{kind}={name}"


def _too_few_samples(facts: Facts) -> str | None:
    interval = facts.tuned.get("accuracy_loss_ci95")
    room = facts.constraint.loss(facts.constraint.threshold)
    if facts.status != "met" or not interval or interval[1] <= room:
        return None
    count = (facts.run.result.get("measure") or {}).get("samples") or "evaluation"
    needed = (facts.run.result.get("goal") or {}).get("samples_to_decide")
    more = f"about {needed:,} samples would tell" if needed else "evaluate more to be sure"
    return (
        f"The loss is within what is tolerated on these {count} samples, but could be up to {interval[1]:.4f} on "
        f"others like them ({room:.4f} is tolerated): {more}."
    )


def _larger_budget(facts: Facts) -> str | None:
    best, count = facts.run.chosen, len(facts.run.trials)
    if best is None or facts.run.result.get("stop_reason") != "budget" or best.number <= LIMITS.late_share * count:
        return None
    limit = facts.run.result.get("budget", {}).get("max_trials", 0)
    return (
        f"The best came late (trial {best.number} of {count}): tuning.max_trials={2 * max(limit, count)} in the "
        "same run_dir goes on from here."
    )


def _unsteady_timing(facts: Facts) -> str | None:
    best, final = facts.run.chosen, facts.run.result.get("speedup")
    timed = facts.run.gain(best.evaluation) if best is not None and best.evaluation is not None else None
    if not timed or not final or "latency" not in [o.name for o in facts.goal.objectives]:
        return None
    if abs(timed / final - 1) <= LIMITS.unsteady_gain:
        return None
    return (
        f"Timing is unsteady: the chosen model was {timed:.2f} times as fast as fp32 in its trial and "
        f"{final:.2f} times in the final measurement. Run on a machine that does nothing else."
    )


def _missed_by(facts: Facts) -> float | None:
    """Accuracy that a saved model lacks, 0 where accuracy was kept; None where no goal was missed."""
    if facts.status != "missed" or not facts.tuned:
        return None
    return max(0.0, facts.constraint.violation(facts.tuned["accuracy"]))


def _short_of_accuracy(facts: Facts) -> bool:
    """Whether, by the result, a constraint (the first or a further one) is the reason for a missed goal."""
    return facts.status == "missed" and (facts.run.result.get("goal") or {}).get("shortfall") == "accuracy"


def _tolerate_more(facts: Facts) -> str | None:
    if not _missed_by(facts):
        return None
    asked = facts.constraint
    loss = asked.loss(facts.tuned["accuracy"]) / (abs(asked.baseline) if asked.criterion == "relative" else 1)
    return f"tuning.tolerable_loss={loss + LIMITS.rounding_loss:.3f} would accept the closest model."


def _calibrate_more(facts: Facts) -> str | None:
    if not _missed_by(facts) and not _short_of_accuracy(facts):
        return None
    return "More or more typical calibration samples (data.calibration_samples) narrow the ranges."


def _no_fast_kernels(facts: Facts) -> str | None:
    if _missed_by(facts) != 0 or _short_of_accuracy(facts):
        return None
    others = [choice(facts, "backend", name) for name in _other_backends(facts)]
    return (
        "Keep the original model: accuracy is kept, speed is not gained. This processor or engine may have no fast "
        f"int8 kernels for this model; try {' or '.join([*others, 'metrics=accuracy_size'])}."
    )


def _other_backends(facts: Facts) -> list[str]:
    """The project's other backends that accept the model's format."""
    source = (facts.run.config.get("model") or {}).get("name")
    return [
        name
        for kind, name in OPTIONAL
        if kind == "backend"
        and name != facts.run.name("backend")
        and source in (TENSORFLOW_MODELS if name == "tensorflow" else OWN_MODELS)
    ]


def _better_strategy(facts: Facts) -> str | None:
    if facts.status not in ("missed", "met") or facts.run.name("strategy") not in WITHOUT_A_MODEL:
        return None
    return (
        f"{choice(facts, 'strategy', 'ilp')} finds the fastest model in few trials: it solves for the least "
        "predicted latency within the tolerated loss."
    )


def _losses_do_not_add_up(facts: Facts) -> str | None:
    if not _missed_by(facts) or facts.run.name("strategy") not in (*WITHOUT_A_MODEL, "ilp", "auto"):
        return None
    return (
        f"Where the loss is far from a sum over operators, {choice(facts, 'strategy', 'sigopt')} searches groups "
        "of operators without assuming one."
    )


def _failed_trials(facts: Facts) -> str | None:
    failed = Counter(t.error for t in facts.run.trials if t.error).most_common(1)
    return f"{failed[0][1]} trials failed, most often with: {failed[0][0]}" if failed else None


def _one_thread(facts: Facts) -> str | None:
    threads = (facts.run.result.get("measure") or {}).get("threads", 1)
    return "measure.threads=1 makes timing several times less noisy." if threads > 1 else None


def _retrain(facts: Facts) -> str | None:
    harmful = {o.name for o in facts.harmful}
    names = [o.name for o in facts.rows if o.asked == "fp32" and o.name in harmful]
    if facts.status != "missed" or not names:
        return None
    return f"Retrain with fake quantization, or change the layers, where int8 hurts: {listed(names)}."


RULES: tuple[Rule, ...] = (
    _too_few_samples,
    _larger_budget,
    _unsteady_timing,
    _tolerate_more,
    _calibrate_more,
    _no_fast_kernels,
    _better_strategy,
    _losses_do_not_add_up,
    _failed_trials,
    _one_thread,
    _retrain,
)
