"""Measuring configurations: fp32 once, then each trial side by side with it, then the finalists and a front."""

from __future__ import annotations

from nc_strategies.measuring.baseline import BaselineMeasurer
from nc_strategies.measuring.front import FrontMeasurer
from nc_strategies.measuring.trial import TrialMeasurer


class Measurer(BaselineMeasurer, TrialMeasurer, FrontMeasurer):
    """Measures one model's configurations on one backend; see `MeasurerCore` for its arguments."""
