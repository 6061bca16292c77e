"""Gaussian linear regression on columns, with products of columns where the data show them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
CANDIDATE_MISFITS = (0.02, 0.1, 0.3)
"""Values of `Regression.misfit` that are compared: standard deviations of the sum of all products, relative to the sum
of all columns."""


class Regression:
    """Posterior of ``value = row @ prices + products + noise``.

    Prices are Gaussian with a mean and a covariance. Each product of two columns has a price of mean zero whose
    standard deviation is `misfit` times the geometric mean of the two columns' ``weights``. All pairs are
    marginalized, so that none has to be selected beforehand; `pairs` gives those that the data show.

    Source: Bishop, "Pattern Recognition and Machine Learning" (2006), sections 3.3 and 6.4; the kernel of all
    products: Duvenaud et al., "Additive Gaussian Processes", NeurIPS 2011; the misfit by marginal likelihood.

    Args:
        mean: Prior mean of the prices, shape (columns,).
        cov: Prior covariance of the prices.
        weights: Sizes of columns for their products, not negative; None for no products.
    """

    def __init__(self, mean: Array, cov: Array, weights: Array | None = None) -> None:
        self.mean, self.cov, self._weights = mean, cov, weights
        self.misfit = 0.0
        self._rows, self._noise = np.zeros((0, len(mean))), np.zeros(0)
        self._values, self._alpha = np.zeros(0), np.zeros(0)
        self._inverse: Array = np.zeros((0, 0))

    def fit(self, rows: Array, values: Array, noise: Array) -> None:
        """Fit the posterior to observations.

        Args:
            rows: Shape (observations, columns).
            values: Observed values, shape (observations,).
            noise: Standard deviation of each observation, shape (observations,).
        """
        self._rows, self._values, self._noise = rows, values, noise
        linear, products = rows @ self.cov @ rows.T + np.diag(noise**2), self._products(rows, rows)
        best = -np.inf
        for misfit in CANDIDATE_MISFITS if self._weights is not None else (0.0,):
            kernel = linear + misfit**2 * products
            inverse, rest = np.asarray(np.linalg.inv(kernel), np.float64), values - rows @ self.mean
            likelihood = -0.5 * float(rest @ inverse @ rest) - 0.5 * float(np.linalg.slogdet(kernel)[1])
            if likelihood > best:
                best, self.misfit = likelihood, misfit
                self._inverse, self._alpha = inverse, inverse @ rest

    def assume(self, rows: Array, noise: Array) -> None:
        """Condition on observations that are still to come, with the expected values in their place.

        Expectations stay as they are, and standard deviations shrink as the observations will make them shrink.
        Source: the kriging believer, Ginsbourger et al., "Kriging Is Well-Suited to Parallelize Optimization", 2010.

        Args:
            rows: Shape (observations, columns).
            noise: Standard deviation of each observation, shape (observations,).
        """
        if not len(rows):
            return
        values, _ = self.predict(rows)
        self._rows, self._values = np.vstack([self._rows, rows]), np.concatenate([self._values, values])
        self._noise = np.concatenate([self._noise, noise])
        kernel = self._rows @ self.cov @ self._rows.T + self.misfit**2 * self._products(self._rows, self._rows)
        self._inverse = np.asarray(np.linalg.inv(kernel + np.diag(self._noise**2)), np.float64)
        self._alpha = self._inverse @ (self._values - self._rows @ self.mean)

    def _products(self, a: Array, b: Array) -> Array:
        """Covariance of the sums of products for a misfit of 1, scaled to 1 for a row of all columns."""
        if self._weights is None:
            return np.zeros((len(a), len(b)))
        return np.asarray(((a * self._weights) @ b.T) ** 2 - (a * self._weights**2) @ b.T)

    @property
    def prices(self) -> Array:
        """Posterior mean of the prices."""
        return np.asarray(self.mean + self.cov @ self._rows.T @ self._alpha)

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the noiseless value of each row."""
        cross = rows @ self.cov @ self._rows.T + self.misfit**2 * self._products(rows, self._rows)
        own = np.einsum("ij,jk,ik->i", rows, self.cov, rows)
        own = own + self.misfit**2 * np.array([self._products(r[None], r[None])[0, 0] for r in rows])
        var = own - np.einsum("ij,jk,ik->i", cross, self._inverse, cross)
        return rows @ self.mean + cross @ self._alpha, np.sqrt(np.maximum(var, 0.0))

    def draw(self, root: Array, rng: np.random.Generator) -> Array:
        """Draw prices from the posterior.

        Source: Matheron's rule, see Wilson et al., "Efficiently Sampling Functions from Gaussian Process
        Posteriors", ICML 2020.

        Args:
            root: A matrix whose product with its transpose is the prior covariance.
            rng: Source of random numbers.
        """
        prior = self.mean + root @ rng.standard_normal(root.shape[1])
        seen = self._rows @ prior + self._noise * rng.standard_normal(len(self._values))
        return np.asarray(prior + self.cov @ self._rows.T @ self._inverse @ (self._values - seen))

    def pairs(self) -> Array:
        """Posterior mean of the price of each product, shape (columns, columns), symmetric, diagonal zero."""
        if self._weights is None or not len(self._rows):
            return np.zeros((len(self.mean), len(self.mean)))
        found = (self._rows.T * self._alpha) @ self._rows * np.outer(self._weights, self._weights)
        found *= 2 * self.misfit**2
        np.fill_diagonal(found, 0.0)
        return np.asarray(found)
