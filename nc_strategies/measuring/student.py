"""Student's t: the one quantile that every 95 % interval of a mean of few values is made with."""

from __future__ import annotations

import functools


@functools.cache
def t_95(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t distribution.

    Args:
        freedom: Degrees of freedom, at least 1.
    """
    # Imported where it is used: scipy takes longer to import than everything else that a command line needs. `stdtrit`
    # is what `scipy.stats.t.ppf` calls, without the import of scipy.stats, which takes several times as long.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
