"""The published comparison: what is said of runs, without running them."""

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "published_comparison.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("published_comparison", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def case(basic, sigopt, accuracy=0.80):
    runs = [{"strategy": name, "seed": seed, "accuracy": accuracy, "duration_s": of_fp32 * 10,
             "duration_of_fp32": of_fp32, "search_s": 60.0, "status": "met"}
            for name, values in (("basic", basic), ("sigopt", sigopt)) for seed, of_fp32 in enumerate(values)]
    return {"model": "net", "fp32": {"accuracy": 0.80, "duration_s": 10.0}, "runs": runs}


def test_a_row_holds_the_median_and_the_range_of_its_seeds(script):
    basic, sigopt = script.summary(case([0.5, 0.4, 0.6], [0.3, 0.3, 0.9]), ["basic", "sigopt"])
    assert (basic["of_fp32"], basic["of_fp32_range"], basic["met"], basic["runs"]) == (0.5, [0.4, 0.6], 3, 3)
    assert sigopt["duration_s"] == pytest.approx(3.0)
    assert "| net | 0.8000 | 10.00 | sigopt | 0.8000 (0.8000-0.8000) | 3.00 (3.00-9.00) |" in script.table([sigopt])


@pytest.mark.parametrize(("sigopt", "verdict"), [
    ([0.49] * 3, "yes (ratio 0.980)"), ([0.505] * 3, "a tie (ratio 1.010)"), ([0.6] * 3, "NO (ratio 1.200)")])
def test_sigopts_median_is_held_against_basics(script, sigopt, verdict):
    said = script.claims(script.summary(case([0.5] * 3, sigopt), ["basic", "sigopt"]))
    assert said[-1] == f"net: sigopt's median duration not above basic's: {verdict}"


def test_a_seed_that_loses_more_than_a_hundredth_is_said(script):
    said = script.claims(script.summary(case([0.5], [0.5], accuracy=0.79), ["basic", "sigopt"]))
    assert said[0].endswith("accuracy: NO")
