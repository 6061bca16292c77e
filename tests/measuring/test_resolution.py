"""What so many samples can tell."""

import math

import numpy as np
import pytest

from nc_strategies.measuring.resolution import ASSUMED_DISCORDANCE, assumed, observed, samples_to_decide

UNIT = (0.0, 1.0)


@pytest.mark.parametrize(("samples", "limit", "enough"), [
    (1000, 0.003, False), (5000, 0.0087, True), (5000, 0.003, False), (50_000, 0.003, True), (1000, 0.0, False),
])  # fmt: skip
def test_whether_a_goal_can_be_told(samples, limit, enough):
    assert assumed(samples, limit, UNIT).enough is enough


def test_the_samples_that_are_needed_are_enough_and_a_tenth_less_is_not():
    needed = assumed(1000, 0.003, UNIT).samples_needed
    assert assumed(needed, 0.003, UNIT).enough
    assert not assumed(round(needed * 0.9), 0.003, UNIT).enough
    assert assumed(1000, 0.0, UNIT).samples_needed is None


def test_the_half_width_covers_95_percent_of_paired_losses():
    samples, rng = 2000, np.random.default_rng(0)
    shares = [ASSUMED_DISCORDANCE / 2, 1 - ASSUMED_DISCORDANCE, ASSUMED_DISCORDANCE / 2]
    losses = rng.choice([-1, 0, 1], (2000, samples), p=shares).mean(1)
    assert (np.abs(losses) <= assumed(samples, 0.01, UNIT).half_width).mean() == pytest.approx(0.95, abs=0.015)


def test_unbounded_scores_say_nothing_before_they_are_seen():
    assert assumed(1000, 0.1, (0.0, math.inf)) is None


def test_what_was_observed_counts_and_nothing_observed_says_nothing():
    assert observed(1000, 0.003, (-0.001, 0.005)).half_width == pytest.approx(0.003)
    assert observed(1000, 0.003, (0.0, 0.0)) is None


def test_more_samples_decide_a_loss_the_sooner_the_further_it_is_from_the_limit():
    assert samples_to_decide(100, 0.05, (0.0, 0.06)) == 225
    assert samples_to_decide(100, 0.04, (0.0, 0.06)) == 900
    assert samples_to_decide(100, 0.03, (0.0, 0.06)) is None
