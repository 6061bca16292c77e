"""Strategies choose the next configuration to measure. A strategy knows a `Problem`, never an engine."""
