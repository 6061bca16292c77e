"""A metric that the user defines."""

from __future__ import annotations

from collections.abc import Sequence

from nc_strategies.errors import InputError
from nc_strategies.metrics.base import Array, Metric, Outputs
from nc_strategies.metrics.settings import PythonMetricSettings
from nc_strategies.runtime.lazy_target import guarded, load_target


class PythonMetric(Metric):
    """A metric computed by a function of the user: ``f(outputs, labels) -> float``.

    The function receives one array whose first axis counts samples, or a tuple of arrays if the setting `outputs` names
    several outputs. Where samples have outputs of different shapes, the array is one of objects: the whole output of
    each sample.

    Raises:
        InputError: the function cannot be found; or later, it raises, or does not return a number.
    """

    def __init__(self, settings: PythonMetricSettings) -> None:
        super().__init__(settings)
        wanted = settings.outputs
        if wanted is not None and (not wanted or min(wanted) < 0):
            raise InputError(
                "metrics.accuracy.outputs", f"is {list(wanted)}", "positions of the model's outputs, from 0"
            )
        self.positions, self.reads_one = None if wanted is None else tuple(wanted), wanted is None
        self._function = load_target("metrics.accuracy.target", settings.target)

    def keep(self, outputs: Sequence[Array]) -> Outputs:  # type: ignore[override]
        """The outputs that the setting `outputs` names."""
        wanted = self.positions or (0,)
        if max(wanted) >= len(outputs):
            raise InputError("metrics.accuracy.outputs", f"is {list(wanted)}", f"the model has {len(outputs)} outputs")
        return outputs[wanted[0]] if len(wanted) == 1 else tuple(outputs[place] for place in wanted)

    def compute(self, outputs: Outputs, labels: Array) -> float:
        """See `Metric.compute`."""
        key, target = "metrics.accuracy.target", self.settings.target
        value = guarded(key, target, lambda: self._function(outputs, labels))
        try:
            return float(value)
        except (TypeError, ValueError):
            raise InputError(key, f"{target} returned {value!r}", "expected a number") from None
