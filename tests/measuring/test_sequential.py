"""When an evaluation may stop: never wrongly in more than 1 of 1,000, and soon where the goal is far."""

import math

import numpy as np
import pytest

from nc_strategies.measuring.sequential import STOPPING_RULES, PairedTest, Verdict, log_capital


def draws(runs, population, lost, gained, seed=0):
    """Differences of a population in random orders, shape (runs, population)."""
    values = np.zeros(population, np.float32)
    values[:lost], values[lost : lost + gained] = 1, -1
    return np.random.default_rng(seed).permuted(np.tile(values, (runs, 1)), axis=1)


def stopped_at(differences, limit):
    """Samples after which each run is stopped; one more than there are where none is."""
    population = differences.shape[-1]
    level = -math.log(STOPPING_RULES.error)
    hit = np.concatenate(
        [
            (log_capital(part.astype(np.float64), population, limit, -1.0) >= level)
            for part in np.array_split(differences, 20)
        ]
    )
    return np.where(hit.any(1), hit.argmax(1) + 1, population + 1)


@pytest.mark.parametrize(("population", "lost", "gained"), [
    (1000, 10, 0), (1000, 30, 20),
    pytest.param(5000, 150, 100, marks=pytest.mark.slow), pytest.param(5000, 275, 225, marks=pytest.mark.slow),
])  # fmt: skip
def test_of_ten_thousand_on_the_edge_at_most_one_in_a_thousand_is_dropped(population, lost, gained):
    assert (lost - gained) / population == 0.01
    dropped = sum(
        (stopped_at(draws(2000, population, lost, gained, seed), 0.01) <= population).sum() for seed in range(5)
    )
    assert dropped <= 10


@pytest.mark.parametrize("discordant", [0.04, 0.06, 0.08, 0.10])
def test_three_percent_under_the_goal_is_seen_on_a_quarter_of_the_samples(discordant):
    lost, gained = round(5000 * (discordant + 0.04) / 2), round(5000 * (discordant - 0.04) / 2)
    read = stopped_at(draws(400, 5000, lost, gained), 0.01)
    assert read.mean() <= 1250
    assert (read <= 5000).all()


def test_a_model_far_from_the_goal_is_dropped_within_a_hundred_samples():
    assert np.median(stopped_at(draws(200, 5000, 1750, 250), 0.01)) <= 100


def scored(population, right, lost, gained, seed=0):
    """Scores of fp32 and of a model on a population, in random order."""
    reference = np.zeros(population)
    reference[:right] = 1
    model = reference.copy()
    model[:lost] = 0
    model[right : right + gained] = 1
    order = np.random.default_rng(seed).permutation(population)
    return reference[order], model[order]


def run(test, scores, batch=100):
    for start in range(0, len(scores), batch):
        verdict = test.read(scores[start : start + batch])
        if verdict is not Verdict.OPEN:
            return verdict
    return Verdict.OPEN


def test_a_hopeless_model_is_out_of_reach_early_with_its_loss_estimated():
    reference, model = scored(5000, 4400, 400, 100)
    test = PairedTest(reference, 0.01, (0.0, 1.0), least=500)
    assert run(test, model) is Verdict.OUT_OF_REACH
    assert 500 <= test.samples <= 1250
    assert test.loss == pytest.approx(0.06, abs=0.03)


def test_a_good_model_is_safely_met_before_the_end():
    reference, model = scored(5000, 4400, 40, 60)
    test = PairedTest(reference, 0.03, (0.0, 1.0))
    assert run(test, model) is Verdict.SAFELY_MET
    assert test.samples <= 1250


@pytest.mark.parametrize(("lost", "verdict"), [(50, Verdict.SAFELY_MET), (51, Verdict.OUT_OF_REACH)])
def test_all_samples_decide_to_the_very_last(lost, verdict):
    reference, model = scored(5000, 5000, lost, 0)
    order = np.argsort(model, kind="stable")[::-1]
    # No random order, so that only what is certain may count.
    assert run(PairedTest(reference, 0.01, (0.0, 1.0), error=1e-300), model[order]) is verdict


def test_what_fp32_has_wrong_cannot_be_lost_so_the_end_is_certain_before_it():
    reference, model = np.ones(100), np.ones(100)
    model[:12] = 0
    test = PairedTest(reference, 0.1, (0.0, 1.0), error=1e-300)
    assert [test.read(model[i : i + 50]) for i in (0,)] == [Verdict.OUT_OF_REACH]


def test_a_metric_where_lower_is_better_and_nothing_bounds_the_worst():
    rng = np.random.default_rng(0)
    reference = rng.uniform(0.5, 1.5, 5000)
    test = PairedTest(reference, 0.01, (0.0, math.inf), higher_is_better=False)
    assert test.possible
    assert run(test, reference * rng.uniform(1.0, 1.6, 5000)) is Verdict.OUT_OF_REACH
    assert test.samples <= 1250
    good = PairedTest(reference, 0.01, (0.0, math.inf), higher_is_better=False)
    assert run(good, reference * rng.uniform(0.9, 1.1, 5000)) is Verdict.OPEN
    assert good.samples == 5000


def test_unbounded_scores_cannot_be_tested():
    assert not PairedTest(np.zeros(10), 0.1, (-math.inf, math.inf)).possible
    assert not PairedTest(np.zeros(10), 0.1, (0.0, math.inf), higher_is_better=True).possible
