"""Metrics of a model's outputs against labels, one module per family."""
