"""Measuring: metrics, accuracy and latency. It knows executables, no engine."""
