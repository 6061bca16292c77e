"""The space as SigOpt can search it: a few groups of operators, graph-wide choices, one integer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from nc_strategies.api import FLOAT, Config, OpScheme, Space
from nc_strategies_sigopt.estimate import Estimate

INT8, FP32 = "int8", "fp32"
SENSITIVE = "sensitive_in_fp32"
FEWEST, MOST = 2, 12
LONGEST_VALUE = 500
FIELDS = ("weight_granularity", "activation_algorithm", "activation_scheme")
Assignments = dict[str, Any]


class Parameters:
    """Turns a space into an experiment's parameters, and assignments of these into configurations.

    Operator groups with a similar ratio of loss to saving share a parameter, ``int8`` or ``fp32``. The integer keeps
    that many of the least worthwhile int8 operator groups in fp32, so that the edge between the parameters can be moved
    by single operator groups; it also is the parameter without which a server enumerates all combinations.

    Args:
        space: What may be chosen.
        estimate: Loss and saving by operator group, in the order of their worth.
        budget: Trials of the run; 0 for no limit.
    """

    def __init__(self, space: Space, estimate: Estimate, budget: int) -> None:
        self.space, self.estimate = space, estimate
        count = len(estimate.tied_ops)
        wanted = min(max(round((budget or 4 * MOST) / 4), FEWEST), MOST, max(count, 1))
        self.groups = _split(count, wanted)
        self.most_sensitive = max(1, math.ceil(count / max(len(self.groups), 1)))
        self.knobs = _knobs(space)
        self.options = {
            f"option_{i:02d}": (name, {str(v): v for v in values})
            for i, (name, values) in enumerate(space.options.items(), 1)
            if len(values) > 1
        }

    @property
    def group_names(self) -> list[str]:
        """Names of the groups' parameters, the most worthwhile group first."""
        return [f"group_{i:02d}" for i in range(1, len(self.groups) + 1)]

    def definition(self) -> list[dict[str, Any]]:
        """The parameters in the API's form."""
        choices = {
            **{name: [FP32, INT8] for name in self.group_names},
            **self.knobs,
            **{name: list(values) for name, (_, values) in self.options.items()},
        }
        return [
            *({"name": name, "type": "categorical", "categorical_values": values} for name, values in choices.items()),
            {"name": SENSITIVE, "type": "int", "bounds": {"min": 0, "max": self.most_sensitive}},
        ]

    def aliases(self) -> dict[str, str]:
        """What each parameter stands for, within the API's limits for metadata."""
        tied_ops = self.estimate.tied_ops
        found = {
            name: ", ".join(op for index in group for op in tied_ops[index])
            for name, group in zip(self.group_names, self.groups, strict=True)
        }
        found.update({name: option for name, (option, _) in self.options.items()})
        return {
            name: text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
            for name, text in found.items()
        }

    def assign(self, int8_groups: int, sensitive: int = 0) -> Assignments:
        """Assignments with the first groups in int8, everything else at its default."""
        chosen: Assignments = {name: INT8 if i < int8_groups else FP32 for i, name in enumerate(self.group_names)}
        chosen.update({name: values[0] for name, values in self.knobs.items()})
        chosen.update({name: next(iter(values)) for name, (_, values) in self.options.items()})
        return {**chosen, SENSITIVE: min(sensitive, self.most_sensitive)}

    def all_float(self) -> Assignments:
        """Assignments of fp32."""
        return self.assign(0)

    def all_int8(self) -> Assignments:
        """Assignments of int8 everywhere."""
        return self.assign(len(self.groups))

    def worthwhile(self, wanted: int) -> Assignments:
        """Assignments that put about so many of the most worthwhile operator groups in int8."""
        done = 0
        for count, group in enumerate(self.groups):
            if done + len(group) > wanted:
                return self.assign(count + 1, done + len(group) - wanted)
            done += len(group)
        return self.all_int8()

    def config(self, assignments: Mapping[str, Any]) -> Config:
        """The configuration that assignments stand for."""
        chosen = [
            index
            for name, group in zip(self.group_names, self.groups, strict=True)
            if assignments[name] == INT8
            for index in group
        ]
        kept = chosen[: max(0, len(chosen) - int(assignments[SENSITIVE]))]
        return self.compose(kept, assignments)

    def compose(self, int8_tied_ops: Sequence[int], assignments: Mapping[str, Any]) -> Config:
        """The configuration with some operator groups in int8 and the graph-wide choices of assignments."""
        space, chosen = self.space, {self.estimate.tied_ops[index] for index in int8_tied_ops}
        free = set(self.estimate.tied_ops)
        config = space.default()
        for tied_op in space.groups:
            schemes = [s for s in space.schemes(tied_op) if not s.is_float]
            if not schemes or (tied_op in free and tied_op not in chosen):
                config = config.with_op(*tied_op, scheme=FLOAT)
            else:
                config = config.with_op(*tied_op, scheme=self._closest(schemes, assignments))
        for name, (option, values) in self.options.items():
            config = config.with_option(option, values[str(assignments[name])])
        return config

    def _closest(self, schemes: list[OpScheme], assignments: Mapping[str, Any]) -> OpScheme:
        return max(schemes, key=lambda s: sum(_fields(s).get(knob) == assignments[knob] for knob in self.knobs))

    def knob_of(self, config: Config, name: str) -> str:
        """A graph-wide choice of a configuration: what most of its int8 operators have."""
        values = self.knobs[name]
        votes = dict.fromkeys(values, 0)
        for _, scheme in config.ops:
            value = None if scheme.is_float else _fields(scheme).get(name)
            if value in votes:
                votes[str(value)] += 1
        return max(values, key=lambda v: votes[v])

    def int8_tied_ops(self, config: Config) -> list[int]:
        """The operator groups which a configuration has in int8."""
        return [i for i, tied_op in enumerate(self.estimate.tied_ops) if not config.schemes[tied_op[0]].is_float]


def _split(count: int, groups: int) -> list[list[int]]:
    if count == 0:
        return []
    edges = [round(count * i / groups) for i in range(groups + 1)]
    return [list(range(a, b)) for a, b in pairwise(edges) if b > a]


def _fields(scheme: OpScheme) -> dict[str, str]:
    act, weight = scheme.activation, scheme.weight
    found = {"activation_algorithm": act.algorithm, "activation_scheme": f"{act.dtype}_{act.scheme}"}
    return found if weight is None else {**found, "weight_granularity": weight.granularity}


def _knobs(space: Space) -> dict[str, list[str]]:
    """Graph-wide choices with more than one value, the most common default first."""
    found: dict[str, dict[str, int]] = {name: {} for name in FIELDS}
    for tied_op in space.groups:
        schemes = [s for s in space.schemes(tied_op) if not s.is_float]
        for place, scheme in enumerate(schemes):
            for name, value in _fields(scheme).items():
                found[name][value] = found[name].get(value, 0) + (place == 0)
    ordered = {name: sorted(values, key=lambda v: -values[v]) for name, values in found.items()}
    return {name: values for name, values in ordered.items() if len(values) > 1}
