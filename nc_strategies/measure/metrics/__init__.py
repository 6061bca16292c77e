"""Metrics of a model's outputs against labels."""

from nc_strategies.measure.metrics.base import Array, MeanMetric, Metric, Outputs, rows
from nc_strategies.measure.metrics.classification import ClassificationScore, LogLoss, RocAuc, Top1, TopK, class_scores
from nc_strategies.measure.metrics.regression import R2, RegressionError, RootMeanSquaredError

__all__ = ["Array", "ClassificationScore", "LogLoss", "MeanMetric", "Metric", "Outputs", "R2", "RegressionError",
           "RocAuc", "RootMeanSquaredError", "Top1", "TopK", "class_scores", "rows"]
