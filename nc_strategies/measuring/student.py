"""Student's t distribution: the quantile for 95 % intervals of a mean of few values."""

from __future__ import annotations

import functools


@functools.cache
def t_95(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t distribution.

    Args:
        freedom: Degrees of freedom, at least 1.
    """
    # Imported where it is used: scipy takes longer to import than everything else that the command line needs.
    # `scipy.stats.t.ppf` calls `stdtrit`, but importing scipy.stats takes several times as long.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
