"""Defaults that more than one way to start a run states: the command line, Python, and Neural Compressor's classes."""

from __future__ import annotations

CRITERION = "relative"
"""How the loss is stated: Neural Compressor's default, relative to fp32's value."""
TOLERABLE_LOSS = 0.01
"""Loss that is accepted: Neural Compressor's default, one per cent of fp32's value."""
MAX_TRIALS = 100
"""Configurations to measure at most: Neural Compressor's default."""
