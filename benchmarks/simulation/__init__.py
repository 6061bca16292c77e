"""Simulated workers for the benchmark of scale."""
