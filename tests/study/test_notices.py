"""What a strategy tells the user reaches the listener at once and stays with the study."""

from nc_strategies.runtime.secrets import register_secret
from nc_strategies.strategies.random import RandomSettings, RandomStrategy
from nc_strategies.study.study import StudyListener

SECRET = "a-secret-of-this-test"


class Telling(RandomStrategy):
    """Says something before its first proposal."""

    def propose(self):
        if not self.note:
            self.problem.notice(f"the server rejects {SECRET}")
        self.note = "told"
        return super().propose()


class Heard(StudyListener):
    """Remembers the order of what it is told."""

    def __init__(self):
        self.events = []

    def notice(self, text):
        self.events.append(text)

    def trial_finished(self, study, trial):
        self.events.append(trial.number)


def test_a_notice_is_heard_before_the_next_trial_and_kept_without_secrets(run):
    register_secret(SECRET)
    listener = Heard()
    study = run(make=lambda problem: Telling(RandomSettings(), problem), max_trials=2)(listener)
    said = [event for event in listener.events if isinstance(event, str) and "the server" in event]
    assert study.notices == said == ["the server rejects ***"]
    assert listener.events.index(said[0]) < listener.events.index(1)
