"""Processes, caches, secrets, lazy imports and clocks, for every layer."""
