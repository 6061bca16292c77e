"""Whether a metric's value is better than trivial answers: a constant one, or the model's own in random order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nc_strategies.metrics.base import Array


@dataclass(frozen=True)
class ChanceRules:
    """Rules of the comparison with trivial answers."""

    permutations: int = 40
    """Random orders of the labels: enough for a mean and a standard deviation of a metric that is no mean of scores."""
    seed: int = 0
    """Seed of the random orders, so that a run is refused or not whenever it is repeated."""
    related: float = 1.0
    """Standard deviations by which a value must exceed that of random orders. Small, because a weak model must pass
    with few samples: 7 of 10 right answers of two balanced classes are 1.2 deviations above chance."""
    clearly_related: float = 2.0
    """Standard deviations from which answers clearly depend on the labels. A value that is below a constant answer's by
    less than its sampling error then passes: few samples do not tell which is better."""
    rounding: float = 1e-9
    """Relative difference of two values that is rounding."""


CHANCE_RULES = ChanceRules()


@dataclass(frozen=True)
class Shuffled:
    """Values of a metric where each sample is compared with the label of a random other sample.

    Args:
        mean: Their mean.
        deviation: Their standard deviation.
    """

    mean: float
    deviation: float


@dataclass(frozen=True)
class Constant:
    """The best answer that is the same for all samples.

    Args:
        value: Its value of the metric.
        answer: What it is, for the user.
        gains: Score of each sample less that of the constant answer, positive for better, shape (N,); None if the
            metric is no mean of scores.
    """

    value: float
    answer: str
    gains: Array | None = None


def one_valued(labels: Array) -> bool:
    """Whether all samples have the same label: a constant answer is then right, and says nothing about a model."""
    return bool((np.asarray(labels) == np.asarray(labels)[:1]).all())


def shuffled(value: Callable[[Array], float], labels: Array) -> Shuffled:
    """Values of a metric for random orders of the labels.

    Args:
        value: The metric for labels in another order.
        labels: Shape (N, ...).
    """
    rng = np.random.default_rng(CHANCE_RULES.seed)
    values = [value(labels[rng.permutation(len(labels))]) for _ in range(CHANCE_RULES.permutations)]
    return Shuffled(float(np.mean(values)), float(np.std(values, ddof=1)))


def shuffled_hits(answers: Array, classes: Array) -> Shuffled:
    """Share of right answers for random orders of the labels, without drawing them.

    The number of hits is ``sum_i M[i, p(i)]`` for a random permutation p, where ``M[i, j]`` says whether the answers of
    sample i hold the class of sample j. Source: Hoeffding, "A combinatorial central limit theorem", Annals of
    Mathematical Statistics 22 (1951), theorem 2.

    Args:
        answers: Classes that a model names for each sample, shape (N, k), all different for a sample.
        classes: Class of each sample, shape (N,).
    """
    count = len(classes)
    names, place = np.unique(np.concatenate([answers.reshape(-1), classes]), return_inverse=True)
    named, true = place.reshape(-1)[: answers.size].reshape(answers.shape), place.reshape(-1)[answers.size :]
    share = np.bincount(true, minlength=len(names)) / count
    rows = share[named].sum(1)
    columns = (np.bincount(named.reshape(-1), minlength=len(names)) / count)[true]
    mean = float(rows.mean())
    if count < 2:
        return Shuffled(mean, 0.0)
    squares = count * (count * mean - float((rows**2).sum()) - float((columns**2).sum()) + count * mean**2)
    return Shuffled(mean, math.sqrt(max(squares, 0.0) / (count - 1)) / count)


def no_better(
    value: float, higher_is_better: bool, constant: Constant | None = None, order: Shuffled | None = None
) -> str:
    """Which trivial answer scores as well as a model.

    Args:
        value: The model's value.
        higher_is_better: Direction of the metric.
        constant: The best constant answer; None if the metric has none.
        order: The model's own answers in random order; None if they are not known.

    Returns:
        The trivial answer and its value, for the user; empty if the model is better.
    """
    rules, sign = CHANCE_RULES, 1.0 if higher_is_better else -1.0
    above = None if order is None else sign * (value - order.mean)
    if constant is not None and sign * (value - constant.value) <= rules.rounding * abs(constant.value):
        gains = constant.gains
        near = gains is not None and len(gains) > 1 and gains.mean() + gains.std(ddof=1) / math.sqrt(len(gains)) > 0
        clear = order is not None and above is not None and above >= rules.clearly_related * order.deviation > 0
        if not (near and clear):
            return f"{constant.value:.4f} of {constant.answer}"
    if order is not None and above is not None:
        least = max(rules.related * order.deviation, rules.rounding * abs(order.mean))
        if above < least or above <= 0:
            return f"{order.mean:.4f} (standard deviation {order.deviation:.4f}) of its own answers in random order"
    return ""
