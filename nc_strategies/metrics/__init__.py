"""Metrics of a model's outputs against labels, one file per family."""
