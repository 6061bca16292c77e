"""The space as a sampler can search it: integers that count operators in int8, and one choice for each graph option."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from nc_strategies.api import FLOAT, Config, InputError, OpScheme, Space, find_roles, way
from nc_strategies_optuna.estimate import Estimate

EVENT = "parameters"
COUNT = "int8_groups"
"""Name of the parameter that counts operators in int8, where there is one for all operators."""
MOST_STEPS = 64
"""Steps of such a parameter at most: finer ones change less than a trial's noise."""
MODE = "mode_"
"""Start of the names of the parameters that choose a quantization mode for the operators of one role."""
NO_ROLE = "other"
FIELDS = ("weight_granularity", "activation_algorithm", "activation_scheme")
Assignments = dict[str, Any]
Steps = list[list[int]]


class Parameters:
    """Turns a space into parameters of a sampler, and assignments of these into configurations.

    - ``int8_groups``: the number of steps in int8. A step is a group of tied operators, or neighbours in the order of
      expected loss for what is saved where there are more than `MOST_STEPS`. Assignments count from the first in this
      order. With several groups, each is a slice of the order with a parameter of its own: ``int8_group_01``,
      ``int8_group_02``, ...
    - ``mode_query`` and the like: the quantization mode of the operators of one role in all layers, where they have
      several modes; ``mode_other`` for operators without a role. It counts for those in int8.
    - one for each graph-wide choice (weight granularity, calibration algorithm, activation scheme, the backend's
      options).

    Assignments are integers: for a choice, the place of the value in its list, the default first.

    Args:
        space: What may be chosen.
        estimate: Loss and saving by operator group, in the order of their worth.
        count: Number of groups that are formed, at most one for each group of tied operators.
        groups: Steps of each group by the name of its parameter, where they are known; a step is a list of places in
            `estimate`.
    """

    def __init__(
        self,
        space: Space,
        estimate: Estimate,
        count: int = 1,
        groups: Mapping[str, Sequence[Sequence[int]]] | None = None,
    ) -> None:
        self.space, self.estimate = space, estimate
        self.groups: dict[str, Steps] = (
            {name: [list(step) for step in steps] for name, steps in groups.items()}
            if groups is not None
            else _form_groups(len(estimate.tied_ops), count)
        )
        self._role_of = _roles(space)
        self._schemes_of: dict[tuple[str, ...], dict[tuple[str, ...], OpScheme]] = {}
        self._knobs_of: dict[tuple[str, str], str] = {}
        self._places: list[int] = []
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
            raise InputError("run_dir", "holds a search over other operators than this model's", "use another run_dir")
        guess = Estimate(
            tied_ops,
            np.array(record["loss"], float),
            np.array(record["saved"], float),
            float(record["loss_sd"]),
            float(record["saved_sd"]),
        )
        groups = record["groups"]
        return Parameters(space, guess, groups={COUNT: groups} if isinstance(groups, list) else groups)

    @property
    def choices(self) -> dict[str, list[str]]:
        """Values of each graph-wide choice, the default first."""
        return {**self.knobs, **{name: list(values) for name, (_, values) in self.options.items()}}

    def tops(self) -> dict[str, int]:
        """The largest value of each parameter; the smallest is 0."""
        return {
            **{name: len(steps) for name, steps in self.groups.items()},
            **{name: len(values) - 1 for name, values in self.choices.items()},
        }

    def first(self, wanted: int) -> Assignments:
        """Assignments with the first operator groups in int8, no more than so many, everything else at its default."""
        chosen, left = {}, wanted
        for name, steps in self.groups.items():
            chosen[name] = _whole_steps(steps, left)
            left = left - sum(map(len, steps)) if chosen[name] == len(steps) else 0
        return {**chosen, **dict.fromkeys(self.choices, 0)}

    def all_float(self) -> Assignments:
        """Assignments of fp32."""
        return self.first(0)

    def all_int8(self) -> Assignments:
        """Assignments of int8 everywhere."""
        return self.first(len(self.estimate.tied_ops))

    def int8_of(self, assignments: Mapping[str, Any]) -> list[int]:
        """The operator groups that assignments put in int8."""
        return [i for name, steps in self.groups.items() for step in steps[: int(assignments[name])] for i in step]

    def values_of(self, assignments: Mapping[str, Any]) -> dict[str, str]:
        """The values of the graph-wide choices that assignments stand for."""
        return {name: values[int(assignments[name])] for name, values in self.choices.items()}

    def config(self, assignments: Mapping[str, Any]) -> Config:
        """The configuration that assignments stand for."""
        return self.compose(self.int8_of(assignments), self.values_of(assignments))

    def nearest(self, config: Config) -> Assignments:
        """Assignments with as many operators in int8, group by group, and the same choices as a configuration."""
        inside = set(self.int8_tied_ops(config))
        found: Assignments = {
            name: _whole_steps(steps, len(inside & {i for step in steps for i in step}))
            for name, steps in self.groups.items()
        }
        found.update({name: values.index(self.knob_of(config, name)) for name, values in self.knobs.items()})
        for name, (option, values) in self.options.items():
            found[name] = list(values).index(str(config.option(option)))
        return found

    def compose(self, int8_tied_ops: Sequence[int], choices: Mapping[str, Any]) -> Config:
        """The configuration with some operator groups in int8 and values of the graph-wide choices."""
        space, chosen = self.space, {self.estimate.tied_ops[index] for index in int8_tied_ops}
        left_out = {*self.estimate.tied_ops} - chosen
        found: dict[str, OpScheme] = {}
        for tied_op, scheme in self._quantized(choices).items():
            found.update(dict.fromkeys(tied_op, FLOAT if tied_op in left_out else scheme))
        config = space.default().with_ops(found)
        for name, (option, values) in self.options.items():
            config = config.with_option(option, values[str(choices[name])])
        return config

    def _quantized(self, choices: Mapping[str, Any]) -> Mapping[tuple[str, ...], OpScheme]:
        """The scheme of all operators in int8; `FLOAT` for those without one. Kept for each combination of choices."""
        key = tuple(str(choices.get(knob)) for knob in self.knobs)
        if key not in self._schemes_of:
            found = self._schemes_of[key] = {}
            for tied_op in self.space.groups:
                schemes = [s for s in self.space.schemes(tied_op) if not s.is_float]
                of_mode = self._of_mode(tied_op, schemes, choices) if schemes else []
                found[tied_op] = self._closest(of_mode, choices) if schemes else FLOAT
        return self._schemes_of[key]

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
        key = (config.fingerprint, name)
        if key not in self._knobs_of:
            self._knobs_of[key] = self._most_common(config, name)
        return self._knobs_of[key]

    def _most_common(self, config: Config, name: str) -> str:
        values = self.knobs[name]
        votes = dict.fromkeys(values, 0)
        role = name.removeprefix(MODE) if name.startswith(MODE) else ""
        inside = {op for tied_op, its in self._role_of.items() if its == role for op in tied_op}
        codes = [code for op, code in zip(config.names, config.codes, strict=True) if not role or op in inside]
        for code, count in Counter(codes).items():
            scheme = config.scheme_of(code)
            value = way(scheme) if role else _fields(scheme).get(name)
            if value in votes:
                votes[str(value)] += count
        return max(values, key=lambda v: votes[v])

    def int8_tied_ops(self, config: Config) -> list[int]:
        """The operator groups which a configuration has in int8."""
        if not self._places:
            place = {name: place for place, name in enumerate(config.names)}
            self._places = [place[tied_op[0]] for tied_op in self.estimate.tied_ops]
        codes = config.codes
        floats = {code for code in set(codes) if config.scheme_of(code).is_float}
        return [i for i, place in enumerate(self._places) if codes[place] not in floats]


def _whole_steps(steps: Sequence[Sequence[int]], wanted: int) -> int:
    """Number of the first steps that hold no more than so many operator groups together."""
    done = 0
    for number, step in enumerate(steps):
        done += len(step)
        if done > wanted:
            return number
    return len(steps)


def _form_groups(operators: int, count: int) -> dict[str, Steps]:
    """Slices of the order of worth, each cut into steps, by the names of their parameters."""
    groups = max(min(count, operators), 1)
    names = [COUNT] if groups == 1 else [f"int8_group_{number:02d}" for number in range(1, groups + 1)]
    slices = _split(operators, groups) or [[]]
    return {
        name: [[inside[i] for i in step] for step in _split(len(inside), min(len(inside), MOST_STEPS))]
        for name, inside in zip(names, slices, strict=True)
    }


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
