"""Strategies compared by replaying measured tables."""
