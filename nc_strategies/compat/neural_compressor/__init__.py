"""The configuration classes of Neural Compressor 2.x: the same names, values and defaults.

Values are checked when they are set. What this package does not do is refused with the reason, never ignored; what
needs no setting here is accepted. ``docs/coming-from-neural-compressor.md`` lists all options.
"""

from nc_strategies.compat.neural_compressor.criteria import AccuracyCriterion, TuningCriterion
from nc_strategies.compat.neural_compressor.post_training import PostTrainingQuantConfig

__all__ = ["AccuracyCriterion", "PostTrainingQuantConfig", "TuningCriterion"]
