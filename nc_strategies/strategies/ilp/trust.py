"""Errors of predicted costs, learnt from the trials that were predicted before they were measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nc_strategies.strategies.ilp.regression import Array, Regression

Z_95 = 1.96


@dataclass(frozen=True)
class TrustRules:
    """Priors of the errors of predicted costs."""

    factor_sd: float = 0.2
    """Standard deviation of the common factor of all predicted costs: that of the logarithm of a uniform factor from
    0.7 to 1.4. Terms and trials are timed against different sessions of fp32, on a machine that may be busy."""
    min_error: float = 0.003
    """Least relative standard deviation of a measured cost around the model: sums of terms are not exact."""
    assumed_error: float = 0.005
    """Relative error assumed of a latency model that states none."""
    max_error: float = 0.5
    """Largest relative error that is considered."""
    error_grid_points: int = 13
    """Errors from `min_error` to `max_error` that are compared."""
    error_freedom: float = 6.0
    """Degrees of freedom of the half-t prior of the error: few, so that some trials can show many times its scale."""
    max_timing_errors: float = 3.0
    """Multiple of a trial's standard error by which its timing may be off. The standard error comes from the runs of
    one session and does not include differences between sessions."""
    prior_trials: float = 4.0
    """Weight, in trials, of the prior that standardized residuals have a variance of 1."""


TRUST_RULES = TrustRules()


@dataclass(frozen=True)
class Trust:
    """Errors of predicted costs, as the trials show them.

    Args:
        error: Relative standard deviation of measured costs around the model, beyond their own intervals.
        inflation: Factor, at least 1, that makes the standard deviations of the model fit the residuals of the trials,
            each predicted from those before it.
        timing: Relative standard error of a trial's timing: root mean square over the intervals of the trials.
        residuals: Standardized residuals of the trials before the inflation, in the order of the trials.
    """

    error: float
    inflation: float = 1.0
    timing: float = 0.0
    residuals: tuple[float, ...] = ()

    @staticmethod
    def learnt(model: Regression, rows: Array, values: Array, timed: Array, trials: Array, error: float) -> Trust:
        """Fit a cost model and learn its errors.

        Marginal likelihood decides whether all costs share a factor, and how large the error is. A factor without
        evidence would only weaken what the trials say of single operators. The fit uses the likeliest error,
        predictions use its root mean square over the posterior. The inflation follows from the residuals by the
        inverse-gamma posterior of a variance. Sources: Gelman et al., "Bayesian Data Analysis", 3rd ed., sections 2.6
        and 5.7; half-t priors of a scale: Gelman, Bayesian Analysis 2006.

        Args:
            model: The cost model with its prior, the factor's price last. It is fitted here, and its prior loses the
                factor where the data show none.
            rows: Shape (observations, columns), in the order in which they were measured.
            values: Measured costs, shape (observations,).
            timed: Relative standard error of each cost by its own interval; the error is added to it.
            trials: False for fp32, whose cost is 1 by definition.
            error: Standard deviation of the relative error that the latency model states; 0 when unknown.
        """
        if not len(rows):
            model.fit(rows, values, np.zeros(0))
            return Trust(max(error, TRUST_RULES.min_error))
        rest, expected = values - rows @ model.mean, np.abs(values)
        without = model.cov.copy()
        without[-1, :] = without[:, -1] = 0.0
        given = model.cov
        for _ in range(2):  # Noise follows the expected cost: with the measured cost, lucky trials would weigh most.
            noise = _Noise(expected, timed, trials, error)
            found, _, model.cov = max(
                (_error(rows @ cov @ rows.T, rest, noise), -k, cov) for k, cov in enumerate((without, given))
            )
            model.fit(rows, values, noise.sd(found.likeliest))
            expected = np.maximum(model.predict(rows)[0], 0.1 * np.abs(values))
        kernel = rows @ model.cov @ rows.T + np.diag(noise.sd(found.likeliest) ** 2)
        residuals = np.linalg.solve(np.linalg.cholesky(kernel), rest)[trials]
        inflation = np.sqrt(
            (TRUST_RULES.prior_trials + float(residuals @ residuals)) / (TRUST_RULES.prior_trials + len(residuals))
        )
        timing = float(np.sqrt(np.mean(timed[trials] ** 2))) if trials.any() else 0.0
        return Trust(found.average, max(1.0, float(inflation)), timing, tuple(residuals.tolist()))

    @property
    def noise(self) -> float:
        """Relative standard deviation of a trial's timing.

        It combines the trial's interval and the scatter of trials around the model beyond it. The scatter may be an
        error of the model, so the result is at most `max_timing_errors` times the interval's standard error.
        """
        return min(float(np.hypot(self.timing, self.error)), TRUST_RULES.max_timing_errors * self.timing)

    def error_of(self, cost: float) -> float:
        """Standard deviation of a true cost around the model, from the model's own error."""
        return self.inflation * cost * float(np.sqrt(max(0.0, self.error**2 - TRUST_RULES.min_error**2)))

    def measured_sd(self, cost: float, sd: float) -> float:
        """Standard deviation of a cost before its measurement: of Student's t, as few trials determine its scale.

        Args:
            cost: The expected cost.
            sd: Standard deviation of the model, inflated.
        """
        freedom = TRUST_RULES.prior_trials + len(self.residuals)
        noise = self.inflation * cost * float(np.hypot(self.error, self.timing))
        return float(np.hypot(sd, noise) * np.sqrt(freedom / (freedom - 2)))


@dataclass(frozen=True)
class _Noise:
    """Noise of observations as a function of the error: relative to `expected` costs, added to their `timed` errors.

    fp32 costs 1 by definition, so its cost carries no information on the error; its noise is the error that the latency
    model states.
    """

    expected: Array
    timed: Array
    trials: Array
    stated: float

    def sd(self, error: float) -> Array:
        """Standard deviation of each observation."""
        return np.where(
            self.trials, self.expected * np.hypot(self.timed, error), max(self.stated, TRUST_RULES.min_error)
        )

    @property
    def typical(self) -> float:
        """Scale of the error's prior: the larger of the stated error and the noise that the trials' intervals show."""
        shown = float(np.sqrt(np.mean(self.timed[self.trials] ** 2))) if self.trials.any() else 0.0
        return max(self.stated or TRUST_RULES.assumed_error, TRUST_RULES.min_error, shown)


class _Error(NamedTuple):
    """Posterior of the error. The logarithm of the marginal likelihood is first, so that tuples compare by it."""

    evidence: float
    likeliest: float
    average: float


def _error(spread: Array, rest: Array, noise: _Noise) -> _Error:
    """The likeliest error, and its root mean square over its posterior.

    Args:
        spread: Prior covariance of the noiseless observations, shape (observations, observations).
        rest: Observations less their prior mean, shape (observations,).
        noise: Noise of the observations.
    """
    grid = np.geomspace(TRUST_RULES.min_error, TRUST_RULES.max_error, TRUST_RULES.error_grid_points)
    logs = -(TRUST_RULES.error_freedom + 1) / 2 * np.log1p((grid / noise.typical) ** 2 / TRUST_RULES.error_freedom)
    for k, error in enumerate(grid.tolist()):
        kernel = spread + np.diag(noise.sd(error) ** 2)
        log_determinant = float(np.linalg.slogdet(kernel)[1])
        logs[k] -= 0.5 * (float(rest @ np.linalg.solve(kernel, rest)) + log_determinant)
    weights = grid * np.exp(logs - logs.max())  # The steps of the geometric grid are proportional to its values.
    evidence = float(logs.max() + np.log(weights.sum()))
    return _Error(evidence, float(grid[logs.argmax()]), float(np.sqrt(weights @ grid**2 / weights.sum())))
