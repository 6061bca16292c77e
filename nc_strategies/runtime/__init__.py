"""Processes, caches, secrets, lazy imports and clocks: what every layer may use."""
