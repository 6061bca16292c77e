"""Measurement on another machine: models are built here, and timed there by its own engine."""
