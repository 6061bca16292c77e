"""Hydra configuration of this distribution."""
