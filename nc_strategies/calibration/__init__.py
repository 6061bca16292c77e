"""Calibration statistics of a model's tensors, and the ranges and equalization derived from them.

This package uses numpy only and serves every engine.
"""
