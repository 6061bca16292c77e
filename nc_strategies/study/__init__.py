"""A run: the loop of trials, its journal, its budget, and the study it leaves."""
