"""Calibration and evaluation data: loaders, preprocessing, batches."""
