"""Strategies: which configuration to try next. They know a `Problem`, never an engine."""
