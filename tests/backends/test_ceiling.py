"""The int8 ceiling: timed fairly, within its time, kept, and never a reason to fail twice."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict

import pytest

from nc_strategies.backends.base import ExecutedOps
from nc_strategies.backends.ceiling import (
    Ceiling,
    CeilingCase,
    CeilingLimits,
    cache_name,
    form,
    kept_or_measured,
    measure_ceiling,
)
from nc_strategies.errors import EngineError
from nc_strategies.models import ModelSource
from nc_strategies.runtime import cache, machine
from nc_strategies.testing import ToyBackend, ToyOp, ToySettings
from nc_strategies.testing.toy import SCHEMES

FORMS = {"uint8 asym, int8 per_channel", "uint8 asym, int8 per_tensor"}
KNOWN = Ceiling({"Conv": {"uint8 asym, int8 per_channel": 1.04}}, True, 2)


class Clock:
    """Time that passes only when something is said to take some."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Fake(ToyBackend):
    """A toy whose engine takes simulated time to build and to run, and may run in float what it should not."""

    def __init__(self, clock, build_seconds=0.0, float_instead=(), slow=()):
        super().__init__(ToySettings())
        self.clock, self.build_seconds, self.float_instead, self.slow = clock, build_seconds, float_instead, list(slow)

    def build(self, config):
        self.clock.now += self.build_seconds
        executable = super().build(config)
        ((_, scheme),) = config.ops
        op = self.ops[0]
        seconds = (op.time_us if scheme.is_float else op.int8_time_us) * 1e-6

        def predict(batch):
            # A run that something else disturbed, once in a while.
            self.clock.now += self.slow.pop() if self.slow else seconds
            return []

        executable.predict = predict
        if not scheme.is_float and form(scheme) in self.float_instead:
            executable.executed = lambda: ExecutedOps(Counter(), Counter({op.type: 1}))
        return executable


def case(operator="Conv", **prices):
    def write(folder):
        path = folder / "model.toy"
        path.write_text(json.dumps([asdict(ToyOp("op", operator, **prices))]))
        return ModelSource("one", {"toy": path})

    return CeilingCase(operator, (4, 4), write)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class TestMeasuring:
    def test_every_form_is_set_against_fp32_and_calibration_makes_no_form(self):
        clock = Clock()
        found = measure_ceiling(
            lambda: Fake(clock), [case(time_us=60, int8_time_us=20), case("MatMul")], False, 1, clock=clock
        )
        assert {kind: set(forms) for kind, forms in found.ratios.items()} == {"Conv": FORMS, "MatMul": FORMS}
        assert found.ratios["Conv"] == dict.fromkeys(FORMS, pytest.approx(3.0))
        assert found.best == pytest.approx(3.0)
        assert found.fastest[0] == "Conv"
        assert {form(scheme) for scheme in SCHEMES} == FORMS

    def test_int8_that_is_slower_is_a_ratio_below_one(self):
        clock = Clock()
        found = measure_ceiling(lambda: Fake(clock), [case(time_us=20, int8_time_us=40)], None, 1, clock=clock)
        assert found.best == pytest.approx(0.5)

    def test_disturbed_runs_do_not_move_the_median(self):
        clock = Clock()
        found = measure_ceiling(
            lambda: Fake(clock, slow=[0.01] * 10), [case(time_us=60, int8_time_us=20)], None, 1, clock=clock
        )
        assert found.best == pytest.approx(3.0)

    def test_a_machine_that_is_busy_all_the_time_gives_no_ratio_and_nothing_is_kept(self):
        def busy():
            clock = Clock()
            runs = [*[6e-4] * 7, 2e-5] * 100
            return measure_ceiling(lambda: Fake(clock, slow=runs), [case()], None, 1, clock=clock)

        found = kept_or_measured("kept.json", busy)
        assert (found.ratios, found.disturbed) == ({}, True)
        assert kept_or_measured("kept.json", lambda: KNOWN) == KNOWN

    def test_a_form_that_the_engine_runs_in_float_does_not_count(self):
        clock = Clock()
        left_out = "uint8 asym, int8 per_tensor"
        found = measure_ceiling(lambda: Fake(clock, float_instead=(left_out,)), [case()], None, 1, clock=clock)
        assert set(found.ratios["Conv"]) == FORMS - {left_out}

    def test_an_operator_that_fails_leaves_the_others(self, caplog):
        clock = Clock()
        found = measure_ceiling(lambda: Fake(clock), [case(fails=True), case("MatMul")], None, 1, clock=clock)
        assert set(found.ratios) == {"MatMul"}
        assert "the int8 forms of Conv could not be measured: op cannot run in int8" in caplog.text

    def test_an_operator_that_the_backend_does_not_offer_has_no_ratio(self):
        clock = Clock()
        other = CeilingCase("Gemm", (4, 4), case("Conv").write)
        found = measure_ceiling(lambda: Fake(clock), [other], None, 1, clock=clock)
        assert (found.ratios, found.best, found.fastest) == ({}, None, None)

    @pytest.mark.parametrize(("build", "time_us"), [(0.3, 40.0), (0.9, 40.0), (0.0, 50_000.0), (0.3, 50_000.0)])
    def test_it_keeps_to_its_time_however_slow_the_engine_is(self, build, time_us):
        clock, limits = Clock(), CeilingLimits()
        measure_ceiling(
            lambda: Fake(clock, build), [case(time_us=time_us, int8_time_us=time_us)] * 4, None, 1, clock=clock
        )
        one_step = max(build, 3 * (1 + limits.warm_up_runs) * time_us * 1e-6)
        assert clock.now - 100.0 <= limits.seconds + one_step

    def test_where_building_takes_long_the_first_form_of_each_operator_is_measured(self):
        clock = Clock()
        found = measure_ceiling(lambda: Fake(clock, 0.55), [case(), case("MatMul")], None, 1, clock=clock)
        assert {kind: len(forms) for kind, forms in found.ratios.items()} == {"Conv": 1, "MatMul": 1}

    def test_too_few_rounds_are_no_ratio(self):
        clock = Clock()
        found = measure_ceiling(lambda: Fake(clock), [case(time_us=4e5, int8_time_us=4e5)], None, 1, clock=clock)
        assert found.ratios == {}


class TestKeeping:
    def test_what_is_kept_is_not_measured_again(self):
        asked = []
        first = kept_or_measured("kept.json", lambda: asked.append(1) or KNOWN)
        assert first == kept_or_measured("kept.json", lambda: asked.append(2) or Ceiling()) == KNOWN
        assert asked == [1]
        assert kept_or_measured("kept.json", lambda: Ceiling(threads=7), again=True).threads == 7
        assert kept_or_measured("kept.json", lambda: KNOWN).threads == 7

    def test_nothing_measurable_is_kept_too(self):
        assert kept_or_measured("kept.json", Ceiling) == Ceiling()
        assert kept_or_measured("kept.json", lambda: KNOWN).best is None

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            '{"ratios": 1, "saturates": null, "threads": 1}',
            '{"ratios": {"Conv": {"a": NaN}}, "saturates": null, "threads": 1}',
            '{"ratios": {"Conv": {"a": -1}}, "saturates": null, "threads": 1}',
            '{"ratios": {"Conv": {"a": "fast"}}, "saturates": null, "threads": 1}',
            '{"ratios": {"Conv": [1]}, "saturates": null, "threads": 1}',
            '{"ratios": {}, "saturates": "yes", "threads": 1}',
            '{"ratios": {}, "threads": 1}',
            '{"ratios": {}, "saturates": null, "threads": []}',
            '{"measuring": "soon"}',
        ],
    )
    def test_what_makes_no_sense_in_the_cache_is_measured_again(self, text):
        cache.keep("kept.json", text)
        assert kept_or_measured("kept.json", lambda: KNOWN) == KNOWN
        assert Ceiling.from_dict(json.loads(cache.read("kept.json"))) == KNOWN

    def test_a_failed_measurement_is_tried_again(self):
        def fails():
            raise EngineError("no")

        with pytest.raises(EngineError, match="no"):
            kept_or_measured("kept.json", fails)
        assert kept_or_measured("kept.json", lambda: KNOWN) == KNOWN

    def test_what_took_a_process_down_is_not_tried_again_unless_asked_for(self, caplog):
        code = (
            "import os; from nc_strategies.backends.ceiling import kept_or_measured\n"
            "kept_or_measured('kept.json', lambda: os._exit(9))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 9
        assert kept_or_measured("kept.json", lambda: pytest.fail("measured")) is None
        assert "nc-strategies machine --again" in caplog.text
        assert kept_or_measured("kept.json", lambda: KNOWN, again=True) == KNOWN

    def test_what_another_process_measures_right_now_is_measured_here_too(self):
        cache.keep("kept.json", json.dumps({"measuring": os.getppid()}))
        assert kept_or_measured("kept.json", lambda: KNOWN) == KNOWN

    def test_processor_engine_threads_and_settings_have_ceilings_of_their_own(self, monkeypatch):
        names = [
            cache_name("toy", ["1.0"], 1),
            cache_name("toy", ["1.1"], 1),
            cache_name("toy", ["1.0"], 2),
            cache_name("other", ["1.0"], 1),
            cache_name("toy", ["1.0"], 1, {"TF_ENABLE_ONEDNN_OPTS": "0"}),
        ]
        assert cache_name("toy", ["1.0"], 1) == names[0]
        monkeypatch.setattr(machine, "identity", lambda: ["another"])
        names.append(cache_name("toy", ["1.0"], 1))
        assert len(set(names)) == len(names)

    def test_a_ceiling_survives_json(self):
        assert Ceiling.from_dict(json.loads(json.dumps(KNOWN.to_dict()))) == KNOWN
