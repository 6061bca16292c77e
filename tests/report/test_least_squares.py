"""Effects by least squares: the two ways to decompose a design give the same figures."""

import numpy as np
import pytest

from nc_strategies.report import least_squares
from nc_strategies.report.least_squares import FitLimits, fits


def design_of(rng, rows, columns, kind):
    design = (rng.random((rows, columns)) < 0.5).astype(np.uint8)
    design[:, 0] = 1
    if kind == "tied":
        design[:, 3] = 1 - design[:, 2]  # with the constant, not to be told apart
    if kind == "constant":
        design[:, 4] = 1
    return design


@pytest.mark.parametrize("kind", ["plain", "tied", "constant"])
@pytest.mark.parametrize(("rows", "columns"), [(60, 12), (14, 12), (13, 12), (12, 12), (8, 12), (200, 40)])
def test_products_give_what_the_whole_design_gives(monkeypatch, rows, columns, kind):
    rng = np.random.default_rng(rows)
    design = design_of(rng, rows, columns, kind)
    values = [rng.normal(size=rows), design @ rng.normal(size=columns) + rng.normal(0, 0.1, rows)]
    whole = fits(design, values)
    monkeypatch.setattr(least_squares, "LIMITS", FitLimits(dense_cells=0, rows_at_once=7))
    parts = fits(design, values)
    for one, other in zip(whole, parts, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one.known, other.known)
            np.testing.assert_allclose(one.terms, other.terms, rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(one.reach, other.reach, rtol=1e-6)


def test_terms_that_rows_determine_are_found_and_the_others_are_not_reported():
    rng = np.random.default_rng(1)
    design = design_of(rng, 80, 8, "tied")
    true = np.array([1.0, 0.5, 0.0, 0.0, -0.25, 0.1, 0.0, 2.0])
    (fit, none) = fits(design, [design @ true + rng.normal(0, 1e-3, 80), np.full(80, np.nan)])
    assert none is None
    assert fit.known.tolist() == [False, True, False, False, True, True, True, True]
    assert np.abs(fit.terms - true)[fit.known].max() < 3e-3
