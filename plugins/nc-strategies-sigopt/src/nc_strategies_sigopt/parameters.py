"""The space as SigOpt can search it: one integer that counts operators in int8, one for each graph-wide choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from nc_strategies.api import FLOAT, Config, InputError, OpScheme, Space, find_roles, way
from nc_strategies_sigopt.estimate import Estimate

EVENT = "parameters"
COUNT = "int8_groups"
MOST_GROUPS = 64
"""Groups at most: steps finer than a sixty-fourth of the operators change less than a trial's noise."""
LONGEST_VALUE = 500
MODE = "mode_"
"""Start of the names of the parameters that choose a quantization mode for the operators of one role."""
NO_ROLE = "other"
FIELDS = ("weight_granularity", "activation_algorithm", "activation_scheme")
Assignments = dict[str, Any]


class Parameters:
    """Turns a space into an experiment's parameters, and assignments of these into configurations.

    All parameters are integers, because a server's opening is the product of the categories and the integers, but only
    the number of the integers where there are no categories (`opening`):

    - ``int8_groups``: so many groups are in int8, the first in the order of expected loss for what is saved. A group is
      an operator with those tied to it, or neighbours in that order where there are more than `MOST_GROUPS`.
    - ``mode_query`` and the like: the quantization mode of the operators of one role in all layers, where they have
      several modes; ``mode_other`` for operators without a role. It counts for those in int8.
    - one for each graph-wide choice (weight granularity, calibration algorithm, activation scheme, the backend's
      options): the place of the value in the choice's list, the default first.

    Args:
        space: What may be chosen.
        estimate: Loss and saving by operator group, in the order of their worth.
        groups: Operator groups, by their places in `estimate`, that are counted as one; None to form them now.
    """

    def __init__(self, space: Space, estimate: Estimate, groups: Sequence[Sequence[int]] | None = None) -> None:
        self.space, self.estimate = space, estimate
        count = len(estimate.tied_ops)
        self.groups = (
            [list(group) for group in groups] if groups is not None else _split(count, min(count, MOST_GROUPS))
        )
        self._role_of = _roles(space)
        self.knobs = {**_knobs(space), **_modes(space, self._role_of)}
        self.options = {
            f"option_{i:02d}": (name, {str(v): v for v in values})
            for i, (name, values) in enumerate(space.options.items(), 1)
            if len(values) > 1
        }

    def record(self) -> dict[str, Any]:
        """What `from_record` needs to give the same parameters again, whatever a later run's budget and estimates."""
        guess = self.estimate
        return {
            "event": EVENT,
            "operators": [list(names) for names in guess.tied_ops],
            "loss": guess.loss.tolist(),
            "saved": guess.saved.tolist(),
            "loss_sd": guess.loss_sd,
            "saved_sd": guess.saved_sd,
            "groups": self.groups,
        }

    @staticmethod
    def from_record(space: Space, record: Mapping[str, Any]) -> Parameters:
        """The parameters that `record` describes.

        Raises:
            InputError: its operators are not those of the space.
        """
        tied_ops = tuple(tuple(names) for names in record["operators"])
        if not set(tied_ops) <= set(space.groups):
            raise InputError(
                "run_dir", "holds a SigOpt experiment over other operators than this model's", "use another run_dir"
            )
        guess = Estimate(
            tied_ops,
            np.array(record["loss"], float),
            np.array(record["saved"], float),
            float(record["loss_sd"]),
            float(record["saved_sd"]),
        )
        return Parameters(space, guess, record["groups"])

    @property
    def choices(self) -> dict[str, list[str]]:
        """Values of each graph-wide choice, the default first."""
        return {**self.knobs, **{name: list(values) for name, (_, values) in self.options.items()}}

    def definition(self) -> list[dict[str, Any]]:
        """The parameters in the API's form."""
        tops = {COUNT: max(len(self.groups), 1), **{name: len(values) - 1 for name, values in self.choices.items()}}
        return [{"name": name, "type": "int", "bounds": {"min": 0, "max": top}} for name, top in tops.items()]

    def aliases(self) -> dict[str, str]:
        """What each parameter stands for, within the API's limits for metadata."""
        tied_ops = self.estimate.tied_ops
        found = {COUNT: ", ".join(op for group in self.groups for index in group for op in tied_ops[index])}
        names = {name: option for name, (option, _) in self.options.items()}
        for name, values in self.choices.items():
            shown = ", ".join(f"{place} is {value}" for place, value in enumerate(values))
            found[name] = f"{names[name]}: {shown}" if name in names else shown
        return {
            name: text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
            for name, text in found.items()
        }

    def assign(self, int8_groups: int) -> Assignments:
        """Assignments with the first groups in int8, everything else at its default."""
        return {COUNT: int8_groups, **dict.fromkeys(self.choices, 0)}

    def all_float(self) -> Assignments:
        """Assignments of fp32."""
        return self.assign(0)

    def all_int8(self) -> Assignments:
        """Assignments of int8 everywhere."""
        return self.assign(len(self.groups))

    def worthwhile(self, wanted: int) -> Assignments:
        """Assignments that put about so many of the most worthwhile operator groups in int8, no more."""
        done = 0
        for count, group in enumerate(self.groups):
            done += len(group)
            if done > wanted:
                return self.assign(count)
        return self.all_int8()

    def config(self, assignments: Mapping[str, Any]) -> Config:
        """The configuration that assignments stand for."""
        count = int(assignments[COUNT])
        chosen = [index for group in self.groups[:count] for index in group]
        return self.compose(chosen, {name: values[int(assignments[name])] for name, values in self.choices.items()})

    def compose(self, int8_tied_ops: Sequence[int], choices: Mapping[str, Any]) -> Config:
        """The configuration with some operator groups in int8 and values of the graph-wide choices."""
        space, chosen = self.space, {self.estimate.tied_ops[index] for index in int8_tied_ops}
        free = set(self.estimate.tied_ops)
        config = space.default()
        for tied_op in space.groups:
            schemes = [s for s in space.schemes(tied_op) if not s.is_float]
            if not schemes or (tied_op in free and tied_op not in chosen):
                config = config.with_op(*tied_op, scheme=FLOAT)
            else:
                config = config.with_op(
                    *tied_op, scheme=self._closest(self._of_mode(tied_op, schemes, choices), choices)
                )
        for name, (option, values) in self.options.items():
            config = config.with_option(option, values[str(choices[name])])
        return config

    def _of_mode(self, tied_op: tuple[str, ...], schemes: list[OpScheme], choices: Mapping[str, Any]) -> list[OpScheme]:
        """The schemes of the mode that is chosen for operators; of their default mode if they do not have that one."""
        wanted = choices.get(f"{MODE}{self._role_of[tied_op]}")
        return [s for s in schemes if way(s) == wanted] or [s for s in schemes if way(s) == way(schemes[0])]

    def _closest(self, schemes: list[OpScheme], choices: Mapping[str, Any]) -> OpScheme:
        return max(schemes, key=lambda s: sum(_fields(s).get(knob) == choices[knob] for knob in self.knobs))

    @property
    def other_modes(self) -> list[str]:
        """The modes other than each role's default."""
        return list(dict.fromkeys(w for name, ways in self.knobs.items() if name.startswith(MODE) for w in ways[1:]))

    def whole_mode(self, wanted: str) -> Assignments:
        """Assignments of int8 everywhere, in one mode where operators have it."""
        modes = {n: ways.index(wanted) for n, ways in self.knobs.items() if n.startswith(MODE) and wanted in ways}
        return {**self.all_int8(), **modes}

    def knob_of(self, config: Config, name: str) -> str:
        """A graph-wide choice of a configuration: what most of its int8 operators have."""
        values = self.knobs[name]
        votes = dict.fromkeys(values, 0)
        role = name.removeprefix(MODE) if name.startswith(MODE) else ""
        inside = {op for tied_op, its in self._role_of.items() if its == role for op in tied_op}
        for op, scheme in config.ops:
            if scheme.is_float or (role and op not in inside):
                continue
            value = way(scheme) if role else _fields(scheme).get(name)
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


def _roles(space: Space) -> dict[tuple[str, ...], str]:
    """Role of each group of tied operators; `NO_ROLE` for those without one."""
    known = find_roles(list(space.ops.values()))
    return {tied_op: next((known[name] for name in tied_op if name in known), NO_ROLE) for tied_op in space.groups}


def _modes(space: Space, role_of: Mapping[tuple[str, ...], str]) -> dict[str, list[str]]:
    """Quantization modes of the operators of each role, where there are several, the most common default first."""
    found: dict[str, dict[str, int]] = {}
    for tied_op, role in role_of.items():
        ways = list(dict.fromkeys(way(s) for s in space.schemes(tied_op) if not s.is_float))
        votes = found.setdefault(f"{MODE}{role}", {})
        for place, value in enumerate(ways if len(ways) > 1 else []):
            votes[value] = votes.get(value, 0) + (place == 0)
    ordered = {name: sorted(votes, key=lambda v: -votes[v]) for name, votes in found.items()}
    return {name: values for name, values in ordered.items() if len(values) > 1}


def _fields(scheme: OpScheme) -> dict[str, str]:
    """The graph-wide choices that a scheme of static int8 follows; none for other modes."""
    if not scheme.is_static:
        return {}
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
