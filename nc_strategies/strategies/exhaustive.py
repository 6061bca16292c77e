"""Exhaustive search: every configuration of a small space."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations, product
from typing import Any

from nc_strategies.errors import InputError
from nc_strategies.problem import Problem, Trial
from nc_strategies.space import Config, Space
from nc_strategies.strategies.base import Strategy
from nc_strategies.strategies.settings import ExhaustiveSettings

Change = Callable[[Config], Config]


class ExhaustiveStrategy(Strategy):
    """Measures every configuration: the default, then all that differ from it in one choice, then in two, and so on.

    A choice is the scheme of an operator (of a group, if operators are tied) or the value of a graph option. The
    configurations are generated one by one, so that the size of the space costs no memory. fp32 everywhere is not
    among them, because the baseline is that. Any number of trials may be pending at a time.

    Source: Intel Neural Compressor's documentation, "Tuning Strategies", Exhaustive
    (https://intel.github.io/neural-compressor/latest/docs/source/tuning_strategies.html), which leaves floating point
    out of the space and has a fixed order of operators. Here floating point is a choice as any other.
    """

    settings: ExhaustiveSettings

    def __init__(self, settings: ExhaustiveSettings, problem: Problem) -> None:
        super().__init__(settings, problem)
        self.check_model(settings, problem.space, lambda: False)
        self._configs = enumerate_space(problem.space)

    @classmethod
    def check_model(cls, settings: Any, space: Space, gradients: Callable[[], bool]) -> None:
        """See `Strategy.check_model`: the size of the space is limited."""
        size = space.size()
        if size > settings.limit:
            text = f"{size:,}" if size < 10**15 else f"about 10^{int(math.log10(size))}"
            raise InputError(
                "strategy.limit",
                f"is {settings.limit:,}, but the space has {text} configurations",
                "narrow the space by space.op_type_dict, raise the limit, or take another strategy",
            )

    def propose(self) -> Config | None:
        """See `Strategy.propose`."""
        distance, config = next(self._configs, (0, None))
        self.stage = "exhaustive"
        self.note = f"{distance} {'choice differs' if distance == 1 else 'choices differ'} from the default"
        return config

    def observe(self, trial: Trial) -> None:
        """See `Strategy.observe`; the enumeration learns nothing."""


def enumerate_space(space: Space) -> Iterator[tuple[int, Config]]:
    """All configurations with a quantized operator, by the number of choices that differ from the default's.

    Yields:
        Pairs (number of choices that differ, configuration).
    """
    default = space.default()
    decisions: list[list[Change]] = [
        [lambda c, g=group, s=scheme: c.with_op(*g, scheme=s) for scheme in space.schemes(group)[1:]]  # type: ignore[misc]
        for group in space.groups
    ]
    decisions += [
        [lambda c, n=name, v=value: c.with_option(n, v) for value in values[1:]]  # type: ignore[misc]
        for name, values in space.options.items()
    ]
    decisions = [changes for changes in decisions if changes]
    for distance in range(len(decisions) + 1):
        for some in combinations(decisions, distance):
            for changes in product(*some):
                config = default
                for change in changes:
                    config = change(config)
                if config.int8_ops:
                    yield distance, config
