"""Measurement of a model's accuracy, latency and memory, side by side with fp32."""
