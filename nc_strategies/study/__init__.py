"""A run: the loop of trials, its journal, its budget, and the study it leaves."""

from nc_strategies.study.study import Status, Study, StudyListener
from nc_strategies.study.tune import Setup, tune

__all__ = ["Setup", "Status", "Study", "StudyListener", "tune"]
