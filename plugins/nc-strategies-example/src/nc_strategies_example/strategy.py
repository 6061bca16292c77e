"""The strategy ``bisect``."""

from __future__ import annotations

from nc_strategies.api import Steps, StepwiseStrategy, Trial
from nc_strategies_example.settings import BisectSettings


class BisectStrategy(StepwiseStrategy):
    """Int8 everywhere; if that misses the goal, the fewest of the most sensitive operators in fp32 that reach it.

    Assumes that one more operator in fp32 never makes it worse: then halving needs about log2(operators) trials.
    """

    settings: BisectSettings

    def steps(self) -> Steps:
        """See `StepwiseStrategy.steps`."""
        space = self.problem.space
        default = space.default()
        self.note = "int8 everywhere"
        if self._good((yield default)):
            return
        order = self._most_sensitive_first(default.int8_ops)
        too_few, enough = 0, len(order)
        while enough - too_few > 1:
            count = (too_few + enough) // 2
            self.note = f"the {count} most sensitive in fp32"
            if self._good((yield space.fall_back(default, *order[:count]))):
                enough = count
            else:
                too_few = count

    def _good(self, trial: Trial) -> bool:
        return trial.ok and trial.evaluation is not None and self.problem.goal.feasible(trial.evaluation)

    def _most_sensitive_first(self, names: tuple[str, ...]) -> list[str]:
        if not self.settings.use_sensitivity or self.problem.sensitivity is None:
            return list(names)
        expected = self.problem.sensitivity()
        return sorted(names, key=lambda name: -expected.get(name, 0.0))
