"""How far predicted costs are to be trusted: what trials have shown of the predictions that were made for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nc_strategies.strategies.ilp.regression import Array, Regression

Z_95 = 1.96
FACTOR_SD = 0.2
"""Standard deviation of the factor that all predicted costs are off by: a uniform one from 0.7 to 1.4 has 0.2 in its
logarithm. Terms are timed beside another session of fp32 than trials are, on a machine that may have been busy."""
LEAST_ERROR = 0.003
"""Standard deviation of a measured cost around the model at least, relative: sums of terms are not exact."""
UNKNOWN_ERROR = 0.005
"""What stands for the error of a latency model that states none."""
MOST_ERROR, ERRORS = 0.5, 13
"""Largest error that may be found, and how many between the least and it are compared."""
FREEDOM = 6.0
"""Degrees of freedom of the prior of the error, a half-t: small enough that some trials can show many times it."""
BEYOND_INTERVAL = 3.0
"""How many times its standard error by the runs of one session a trial's timing may be off, by differences between
sessions."""
PRIOR_TRIALS = 4.0
"""Trials that the expectation of standardized residuals near 1 counts for."""


@dataclass(frozen=True)
class Trust:
    """What trials have shown of predicted costs.

    Args:
        error: Relative standard deviation of measured costs around the model, beyond their own intervals.
        inflation: What the standard deviations of the model are multiplied by so that the residuals of the trials,
            each predicted from those before it, fit them; at least 1.
        timing: Relative standard error of a trial's timing by the intervals of the trials, root mean square.
        residuals: Those residuals, standardized before the inflation, in the order of the trials.
    """

    error: float
    inflation: float = 1.0
    timing: float = 0.0
    residuals: tuple[float, ...] = ()

    @staticmethod
    def learnt(model: Regression, rows: Array, values: Array, timed: Array, trials: Array, error: float) -> Trust:
        """Fit a model of costs and learn how far it is to be trusted.

        Whether all costs share a factor, and how large the error is, are told by marginal likelihood: a factor that
        nothing asks for would only make the trials say less of single operators. What is learnt of operators takes the
        likeliest error, what is predicted the root mean square over its posterior. The inflation follows from the
        residuals by the inverse-gamma posterior of a variance. Sources: Gelman et al., "Bayesian Data Analysis", 3rd
        ed., sections 2.6 and 5.7; half-t priors of a scale: Gelman, Bayesian Analysis 2006.

        Args:
            model: Has its prior, the factor's price last, and is fitted here; its prior is left without the factor
                where there is none.
            rows: Shape (observations, columns), in the order in which they were measured.
            values: Measured costs.
            timed: Relative standard error of each by its own interval; the error comes on top.
            trials: False for fp32, whose cost is 1 by definition.
            error: Standard deviation of the relative error that the latency model states; 0 when unknown.
        """
        if not len(rows):
            model.fit(rows, values, np.zeros(0))
            return Trust(max(error, LEAST_ERROR))
        rest, expected = values - rows @ model.mean, np.abs(values)
        without = model.cov.copy()
        without[-1, :] = without[:, -1] = 0.0
        given = model.cov
        for _ in range(2):  # Noise follows the expected cost: by the measured one, lucky trials would weigh most.
            noise = _Noise(expected, timed, trials, error)
            found, _, model.cov = max(
                (_error(rows @ cov @ rows.T, rest, noise), -k, cov) for k, cov in enumerate((without, given))
            )
            model.fit(rows, values, noise.sd(found.likeliest))
            expected = np.maximum(model.predict(rows)[0], 0.1 * np.abs(values))
        kernel = rows @ model.cov @ rows.T + np.diag(noise.sd(found.likeliest) ** 2)
        residuals = np.linalg.solve(np.linalg.cholesky(kernel), rest)[trials]
        inflation = np.sqrt((PRIOR_TRIALS + float(residuals @ residuals)) / (PRIOR_TRIALS + len(residuals)))
        timing = float(np.sqrt(np.mean(timed[trials] ** 2))) if trials.any() else 0.0
        return Trust(found.average, max(1.0, float(inflation)), timing, tuple(residuals.tolist()))

    @property
    def noise(self) -> float:
        """Relative standard deviation of a trial's timing.

        By its interval, and what trials scatter around the model beyond it: that may be the model's own error, so it
        counts for no more than `BEYOND_INTERVAL` times the interval.
        """
        return min(float(np.hypot(self.timing, self.error)), BEYOND_INTERVAL * self.timing)

    def error_of(self, cost: float) -> float:
        """Standard deviation of a true cost around the model: a latency model is not trusted beyond its own error."""
        return self.inflation * cost * float(np.sqrt(max(0.0, self.error**2 - LEAST_ERROR**2)))

    def measured_sd(self, cost: float, sd: float) -> float:
        """Standard deviation of a cost that is going to be measured: of Student's t, since few trials tell its scale.

        Args:
            cost: The expected cost.
            sd: Standard deviation of the model, inflated.
        """
        freedom = PRIOR_TRIALS + len(self.residuals)
        noise = self.inflation * cost * float(np.hypot(self.error, self.timing))
        return float(np.hypot(sd, noise) * np.sqrt(freedom / (freedom - 2)))


@dataclass(frozen=True)
class _Noise:
    """Noise of observations as a function of the error: relative to `expected` costs, on top of their `timed` errors.

    fp32 costs 1 by definition: that it does so shows nothing of the error, and its noise is what the latency model
    states.
    """

    expected: Array
    timed: Array
    trials: Array
    stated: float

    def sd(self, error: float) -> Array:
        """Standard deviation of each observation."""
        return np.where(self.trials, self.expected * np.hypot(self.timed, error), max(self.stated, LEAST_ERROR))

    @property
    def typical(self) -> float:
        """The error to be expected before any trial: what is stated, and what the intervals show that noise can be."""
        shown = float(np.sqrt(np.mean(self.timed[self.trials] ** 2))) if self.trials.any() else 0.0
        return max(self.stated or UNKNOWN_ERROR, LEAST_ERROR, shown)


class _Error(NamedTuple):
    """What observations say of the error: the logarithm of their marginal likelihood first, so that it compares."""

    evidence: float
    likeliest: float
    average: float


def _error(spread: Array, rest: Array, noise: _Noise) -> _Error:
    """The likeliest error, and its root mean square over its posterior.

    Args:
        spread: Covariance of the observations by the prior of the prices.
        rest: Observations less what the prior expects.
        noise: Their noise.
    """
    grid = np.geomspace(LEAST_ERROR, MOST_ERROR, ERRORS)
    logs = -(FREEDOM + 1) / 2 * np.log1p((grid / noise.typical) ** 2 / FREEDOM)
    for k, error in enumerate(grid.tolist()):
        kernel = spread + np.diag(noise.sd(error) ** 2)
        log_determinant = float(np.linalg.slogdet(kernel)[1])
        logs[k] -= 0.5 * (float(rest @ np.linalg.solve(kernel, rest)) + log_determinant)
    weights = grid * np.exp(logs - logs.max())  # the grid's steps grow with it
    evidence = float(logs.max() + np.log(weights.sum()))
    return _Error(evidence, float(grid[logs.argmax()]), float(np.sqrt(weights @ grid**2 / weights.sum())))
