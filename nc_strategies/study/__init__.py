"""A run: the trial loop, its journal, its time budget, and the resulting study."""
