"""Plan of a run: its steps and their expected time, without running it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from nc_strategies.measuring import resolution
from nc_strategies.measuring.finalists import FINALISTS
from nc_strategies.measuring.resolution import Resolution
from nc_strategies.space import Space
from nc_strategies.study.machine import Machine, find_machine
from nc_strategies.study.setup import Setup, choose_metric, make_box, make_goal, make_space
from nc_strategies.study.study import StudyListener


@dataclass(frozen=True)
class Plan:
    """Plan of a run.

    Args:
        model: The model's name.
        strategy: The strategy's name.
        backend: The backend's name.
        samples: Evaluation samples.
        types: Operator type to (number of operators, number of schemes of the first of them).
        configurations: Number of configurations in the search space.
        preparation: Seconds until the first trial.
        trial: Expected seconds of a trial by stage.
        trials: Maximum number of trials; None if only time limits them.
        timeout: Time limit of the run in seconds; 0 for no limit.
        end: Expected seconds to measure the best trials again and save the chosen model.
        expected_trials: Maximum number of trials that fit into the time limit.
        seconds: Maximum seconds of the run.
        shortage: Reason why the run would be rejected for lack of time; empty if it would not be.
        resolution: Resolution of the loss with the evaluation samples; None if it cannot be determined.
        machine: The machine that the run would measure on.
        fewer_samples: One sentence about samples that the time limit leaves out; empty if all are used.
    """

    model: str
    strategy: str
    backend: str
    samples: int
    types: dict[str, tuple[int, int]]
    configurations: int
    preparation: float
    trial: dict[str, float] = field(default_factory=dict)
    trials: int | None = None
    timeout: float = 0.0
    end: float = 0.0
    expected_trials: int = 0
    seconds: float = 0.0
    shortage: str = ""
    resolution: Resolution | None = None
    machine: Machine | None = None
    fewer_samples: str = ""

    @property
    def trial_seconds(self) -> float:
        """Expected seconds of a trial."""
        return sum(self.trial.values())


def plan(setup: Setup, listener: StudyListener) -> Plan:
    """Load, calibrate, measure fp32 and rehearse a trial of the default configuration; no files are left behind.

    Args:
        setup: Components of the run.
        listener: Notified of the stages.

    Raises:
        InputError: model, data, overrides and settings do not fit each other.
        EngineError: the default configuration cannot be built.
    """
    config, target, box = setup.config, setup.target, make_box(setup.config)
    listener.stage("loading the model")
    setup.check_model(make_space(config, target.load()), target.gradients)
    if chosen := choose_metric(setup):
        listener.notice(chosen)
    target.allow(box.allowance())
    listener.stage("calibrating")
    space = make_space(config, target.calibrate())
    listener.stage("measuring fp32")
    measured = target.baseline(space)
    box.fp32_measured(measured.evaluation)
    preparation, short = box.spent, box.shortage()
    listener.stage("rehearsing a trial")
    box.rehearsed(target.rehearse(space.default()))
    box.rewind(preparation)  # do not count the rehearsal, which a run does not have
    constraint = make_goal(config, measured).constraints[0]
    samples = measured.evaluation.samples
    limit = constraint.loss(constraint.threshold)
    trials = min(space.size(), config.tuning.max_trials or space.size())
    expected = 0 if short else box.trials_that_fit(trials) or 0
    return Plan(
        str(target.facts()["model_name"]),
        str(config.strategy["name"]),
        str(config.backend["name"]),
        samples,
        _types(space),
        space.size(),
        preparation,
        box.trial,
        trials,
        config.tuning.timeout,
        box.end_seconds(FINALISTS),
        expected,
        preparation + (0.0 if short else box.remaining(expected)),
        short.text() if short else "",
        resolution.assumed(samples, limit, measured.score_range),
        find_machine(target, config.measure.threads),
        measured.extent.text(config.tuning.timeout),
    )


def _types(space: Space) -> dict[str, tuple[int, int]]:
    counts = Counter(op.type for op in space.quantizable)
    first = {op.type: len(space.schemes(space.group_of[op.name])) for op in reversed(space.quantizable)}
    return {kind: (count, first[kind]) for kind, count in sorted(counts.items())}
