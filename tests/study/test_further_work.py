"""What calibration leaves out for want of time, a run that resumes leaves out too: it goes on with the same model."""

from nc_strategies.backends.collection import leaves
from nc_strategies.testing import ToyBackend, ToySettings


class AsksForTime(ToyBackend):
    """Asks, after its pass over the calibration samples, whether some seconds are left for further work."""

    def __init__(self, seconds):
        super().__init__(ToySettings(simulated=True))
        self.seconds, self.answers = seconds, []

    def calibrate(self, batches):
        super().calibrate(batches)
        assert list(batches)
        self.answers.append(leaves(batches, self.seconds))


def test_the_answer_is_the_same_in_a_run_that_resumes(run):
    def answers(name, seconds, trials):
        backend = AsksForTime(seconds)
        run(name, backend=backend, timeout=1000.0, max_trials=trials)()
        return backend.answers

    assert answers("short", 1e6, 2) == [False]
    assert answers("short", 0.0, 4) == [False]
    assert answers("long", 0.0, 2) == [True]
    assert answers("long", 1e6, 4) == [True]


def test_without_a_time_limit_there_is_time(run):
    backend = AsksForTime(1e9)
    run(backend=backend, max_trials=2)()
    assert backend.answers == [True]
