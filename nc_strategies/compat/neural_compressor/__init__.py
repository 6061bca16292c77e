"""The configuration classes of Neural Compressor 2.x: the same names, values and defaults.

Values are checked when they are set. An option that this package does not support is refused with the reason and never
ignored. An option that has no effect here is accepted. ``docs/coming-from-neural-compressor.md`` lists all options.
"""

from nc_strategies.compat.neural_compressor.criteria import AccuracyCriterion, TuningCriterion
from nc_strategies.compat.neural_compressor.post_training import PostTrainingQuantConfig
from nc_strategies.compat.neural_compressor.yaml_file import read_yaml

__all__ = ["AccuracyCriterion", "PostTrainingQuantConfig", "TuningCriterion", "read_yaml"]
