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
    few: int = 100
    """Number of samples below which sampling error is held in favour of the model: 7 of 10 right answers of two classes
    are better than chance, and so few samples tell no more."""
    related: float = 1.645
    """Standard deviations by which a value over more samples must exceed that of random orders: 5 % of the models whose
    answers do not depend on the sample do so."""
    clearly_related: float = 2.0
    """Standard deviations from which answers over few samples clearly depend on the labels. A value that is below a
    constant answer's by less than its sampling error then passes: few samples do not tell which is better."""
    rounding: float = 1e-9
    """Relative difference of two values that is rounding."""


CHANCE_RULES = ChanceRules()


@dataclass(frozen=True)
class Shuffled:
    """Values of a metric where each sample is compared with the label of a random other sample.

    Args:
        mean: Their mean.
        deviation: Their standard deviation.
        samples: Number of samples N.
    """

    mean: float
    deviation: float
    samples: int


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
    return Shuffled(float(np.mean(values)), float(np.std(values, ddof=1)), len(labels))


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
        return Shuffled(mean, 0.0, count)
    squares = count * (count * mean - float((rows**2).sum()) - float((columns**2).sum()) + count * mean**2)
    return Shuffled(mean, math.sqrt(max(squares, 0.0) / (count - 1)) / count, count)


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
    few = order is not None and order.samples < rules.few
    above = math.inf if order is None else sign * (value - order.mean)
    if constant is not None and sign * (value - constant.value) <= rules.rounding * abs(constant.value):
        clear = order is not None and above >= rules.clearly_related * order.deviation > 0
        if not (few and clear and _near(constant.gains)):
            return f"{constant.value:.4f} of {constant.answer}"
    if order is not None and above <= max(
        rules.rounding * abs(order.mean), 0.0 if few else rules.related * order.deviation
    ):
        return f"{order.mean:.4f} (standard deviation {order.deviation:.4f}) of its own answers in random order"
    return ""


def _near(gains: Array | None) -> bool:
    """Whether the mean gain over a constant answer is less than its standard error below 0."""
    if gains is None or len(gains) < 2:
        return False
    return bool(gains.mean() + gains.std(ddof=1) / math.sqrt(len(gains)) > 0)
