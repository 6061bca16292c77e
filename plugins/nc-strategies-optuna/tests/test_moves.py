"""The local search of a large model looks at fewer pairs, and values each change as it would whole sets."""

from dataclasses import replace

import numpy as np
import pytest
from nc_strategies_optuna import refine
from nc_strategies_optuna.refine import MOVES, _flipped, _Worth


def worth(count, caution=0.0, allowed=2.0):
    rng = np.random.default_rng(count)
    loss, saved = rng.gamma(0.5, size=count), rng.gamma(1.0, size=count)
    part = rng.normal(size=(count, 5)) * 0.1
    return _Worth(loss, part @ part.T + np.diag(0.01 * loss), saved, allowed, caution)


@pytest.mark.parametrize("caution", [0.0, -0.5, 1.0])
def test_a_change_is_valued_as_the_set_that_it_leads_to(caution, monkeypatch):
    monkeypatch.setattr(refine, "MOVES", replace(MOVES, all_pairs=0, paired=4))
    found, flags = worth(40, caution), np.random.default_rng(1).random(40) < 0.4
    first, second, values = found._changes(flags)
    assert len(first) == 40 + 8 * 7 // 2
    sets = np.stack([_flipped(flags, *pair) for pair in zip(first, second, strict=True)])
    assert len(np.unique(sets, axis=0)) == len(sets)
    np.testing.assert_allclose(values, found.of(sets), rtol=1e-9, atol=1e-9)


def test_fewer_pairs_lead_about_as_far(monkeypatch):
    found, start = worth(120, allowed=10.0), np.zeros(120, bool)
    whole = found.of(found.climb(start)[None])[0]
    monkeypatch.setattr(refine, "MOVES", replace(MOVES, all_pairs=0, paired=16))
    assert found.of(found.climb(start)[None])[0] >= 0.99 * whole
    assert whole > 0


def test_neighbours_come_in_the_order_of_their_worth():
    found, flags = worth(30), np.zeros(30, bool)
    values = found.of(np.stack(list(found.near(flags))))
    assert len(values) == 30 * 31 // 2
    assert (np.diff(values) <= 1e-12).all()
