"""Accuracy, latency and memory of a model, measured beside fp32."""
