"""What a run says of the machine: before its first trial, and in everything that it leaves."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from nc_strategies.backends.ceiling import Ceiling, cache_name
from nc_strategies.errors import EngineError
from nc_strategies.report import analysis, explain, page
from nc_strategies.report import plan as plans
from nc_strategies.report.result import write
from nc_strategies.report.run_files import RunFiles
from nc_strategies.runtime import cache
from nc_strategies.study.machine import Machine
from nc_strategies.study.plan import plan
from nc_strategies.study.study import Status, StudyListener
from nc_strategies.testing import ToyBackend, ToySettings

LOW = Ceiling({"Conv": {"uint8 asym, int8 per_channel": 1.043}, "MatMul": {"uint8 asym, int8 per_channel": 0.9}}, True)
NOTICE = (
    "The fastest int8 operator of toy on this machine, Conv (uint8 asym, int8 per_channel), runs 1.04 times as "
    "fast as in fp32: no int8 model can be much faster than fp32 here."
)
UNKNOWN = "How fast int8 operators of toy can be on this machine is unknown."


class Told(StudyListener):
    """Remembers notices, and how many trials had begun then."""

    def __init__(self):
        self.notices, self.begun = [], 0

    def notice(self, text):
        self.notices.append((self.begun, text))

    def trial_started(self, number, stage):
        self.begun += 1


class Silent(ToyBackend):
    """A backend of a third party, which does not measure a ceiling; or fails in it."""

    def __init__(self, error=None):
        super().__init__(ToySettings())
        self.error = error

    def ceiling(self, again=False):
        if self.error is not None:
            raise self.error
        return None


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def low(own_cache):
    """The cache says that the toy's int8 gains next to nothing."""
    cache.keep(cache_name("toy", [], 1), json.dumps(LOW.to_dict()))


def text_of(renderable):
    console = Console(width=400)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def leave(one, study):
    """The files of an ended run, as the command line leaves them."""
    result = write(study, one.setup)
    analysis.write(study)
    return result, RunFiles.read(study.run_dir)


class TestLow:
    def test_a_low_ceiling_is_announced_before_the_first_trial_and_the_run_goes_on(self, run, low):
        told = Told()
        study = run(max_trials=3, tolerable_loss=0.1)(told)
        ((begun, text),) = told.notices
        assert begun == 0
        assert text.startswith(NOTICE)
        for helps in ("metrics=accuracy_size", "metrics=accuracy_memory", "another backend", "tuning on the processor"):
            assert helps in text
        assert len(study.trials) == 3
        assert study.status is Status.MET

    def test_it_is_in_the_result_the_page_and_what_explain_says(self, run, low):
        one = run(max_trials=2)
        result, files = leave(one, one())
        assert result["machine"]["ceiling"] == LOW.ratios
        assert (result["machine"]["best_ceiling"], result["machine"]["saturates"]) == (1.043, True)
        assert result["machine"]["processor"] == result["measure"]["processor"]
        assert result["machine"]["cores"] >= result["machine"]["threads"] == 1
        assert isinstance(result["machine"]["instruction_sets"], list)
        explained = text_of(explain.render(files))
        assert NOTICE in explained
        assert "weights get 7 bits" in explained
        made = page.write(one.folder).read_text()
        assert "no int8 model can be much faster than fp32 here" in made
        assert "1.04 times fp32" in made
        assert result["machine"]["processor"] in made

    def test_the_page_of_a_run_that_goes_on_has_it_too(self, run, low):
        one = run(max_trials=2)
        study = one()
        analysis.write(study)
        (one.folder / "result.json").unlink(missing_ok=True)
        assert "no int8 model can be much faster" in page.write(one.folder, running=True).read_text()

    def test_a_goal_without_time_in_it_is_told_nothing(self, run, low):
        one, told = run(max_trials=2, tolerable_loss=0.1), Told()
        one.config.metrics.objectives[:] = ["size"]
        one(told)
        assert told.notices == []

    def test_a_plan_tells_it(self, run, low):
        found = plan(run().setup, StudyListener())
        assert found.machine.low
        shown = text_of(plans.render(found))
        assert NOTICE in shown
        assert "int8 ceiling: 1.04 times fp32" in shown


class TestOtherwise:
    def test_a_high_ceiling_is_told_without_a_notice(self, run):
        one, told = run(max_trials=2, tolerable_loss=0.1), Told()
        result, files = leave(one, one(told))
        assert told.notices == []
        assert result["machine"]["best_ceiling"] == pytest.approx(40 / 15, abs=1e-3)
        assert "runs 2.67 times as fast as in fp32: a whole model usually gains less." in text_of(explain.render(files))

    def test_what_the_cache_holds_is_used_and_what_is_corrupt_measured_again(self, run):
        name = cache_name("toy", [], 1)
        for kept, best in (
            (json.dumps(replace(LOW, ratios={"Conv": {"int8": 1.7}}).to_dict()), 1.7),
            ('{"ratios": ', 40 / 15),
        ):
            cache.keep(name, kept)
            assert run(f"with {best:.1f}", max_trials=1)().machine.best == pytest.approx(best)
        assert Ceiling.from_dict(json.loads(cache.read(name))).best == pytest.approx(40 / 15)

    @pytest.mark.parametrize("backend", [Silent(), Silent(EngineError("no such kernel")), Silent(ValueError("broken"))])
    def test_an_unknown_ceiling_says_so_and_is_no_reason_to_fail(self, run, backend, caplog):
        one, told = run(max_trials=2, tolerable_loss=0.1, backend=backend), Told()
        study = one(told)
        result, files = leave(one, study)
        assert (told.notices, study.status) == ([], Status.MET)
        assert [result["machine"][key] for key in ("ceiling", "best_ceiling", "saturates")] == [None] * 3
        assert UNKNOWN in text_of(explain.render(files))
        assert "int8 ceiling</th><td>unknown" in page.write(one.folder).read_text()
        if backend.error is not None:
            assert "the int8 ceiling could not be measured" in caplog.text
            assert str(backend.error) in caplog.text

    def test_an_engine_that_dies_in_it_leaves_it_unknown(self, run, monkeypatch, caplog):
        one = run(max_trials=2)

        def dies():
            raise EngineError("the engine crashed (SIGABRT)")

        monkeypatch.setattr(one.setup.target, "ceiling", dies)
        study = one()
        assert study.machine.ceiling is None
        assert len(study.trials) == 2
        assert "could not be measured: the engine crashed (SIGABRT)" in caplog.text

    def test_a_run_of_a_version_that_did_not_keep_it_is_still_read(self, run):
        one = run(max_trials=1)
        leave(one, one())
        for name in ("result.json", "analysis.json"):
            data = json.loads((one.folder / name).read_text())
            del data["machine"]
            (one.folder / name).write_text(json.dumps(data))
        assert "on this machine" not in text_of(explain.render(RunFiles.read(one.folder)))
        assert 'id="h-machine"' not in page.write(one.folder).read_text()

    @pytest.mark.parametrize("ceiling", [None, LOW, Ceiling(saturates=True), Ceiling({"Conv": {"int8": 2.0}}, None, 1)])
    def test_a_machine_survives_its_json(self, ceiling):
        here = Machine("some processor", ("avx2",), 4, 1, ceiling)
        assert Machine.from_dict(json.loads(json.dumps(here.to_dict()))) == here
