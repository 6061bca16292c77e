"""Functions of the user's as metrics."""

import numpy as np
import pytest

from nc_strategies.errors import InputError
from nc_strategies.metrics.settings import PythonMetricSettings
from nc_strategies.metrics.user import PythonMetric
from nc_strategies.testing import MetricSuite

CODE = """
import numpy as np

def share(outputs, labels):
    return (outputs.argmax(1) == labels).mean()

def both(outputs, labels):
    first, second = outputs
    return float(((first + second).argmax(1) == labels).mean())

def broken(outputs, labels):
    raise KeyError("no such thing\\nmore")

def text(outputs, labels):
    return "high"

number = 3
"""


@pytest.fixture
def made(tmp_path):
    (tmp_path / "mine.py").write_text(CODE)

    def make(name, **settings):
        return PythonMetric(PythonMetricSettings(target=f"{tmp_path / 'mine.py'}:{name}", **settings))

    return make


@pytest.fixture(autouse=True, scope="class")
def _module(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("module")
    (folder / "own_metric.py").write_text(CODE)
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(folder))
    yield
    patch.undo()


class TestSuite(MetricSuite):
    def metric(self):
        return PythonMetric(PythonMetricSettings(target="own_metric:share"))


class TestSeveralOutputs(MetricSuite):
    def metric(self):
        return PythonMetric(PythonMetricSettings(target="own_metric:both", outputs=[1, 0]))

    def outputs(self):
        first = super().outputs()
        return [first, first[::-1].copy()]


def test_the_function_says_the_value(made):
    assert made("share").compute(np.eye(3), np.array([0, 1, 1])) == pytest.approx(2 / 3)


def test_the_direction_is_the_users_word(made):
    assert made("share").higher_is_better


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r"^metrics\.accuracy\.target: .*mine\.py:broken raised KeyError: 'no such thing\\nmore'$"),
        ("text", r"^metrics\.accuracy\.target: .*mine\.py:text returned 'high'; expected a number$"),
    ],
)
def test_what_goes_wrong_in_it_is_one_line_that_names_it(made, name, message):
    with pytest.raises(InputError, match=message):
        made(name).compute(np.eye(3), np.array([0, 1, 1]))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("own_metric", "is 'own_metric'; expected module:function"),
        ("own_metric:none", "has no function 'none'"),
        ("own_metric:number", "has no function 'number'"),
        ("no_such_module:f", "no_such_module cannot be imported"),
        ("nowhere.py:f", "no such file: nowhere.py"),
    ],
)
def test_a_function_that_is_not_there_is_one_line(target, message):
    with pytest.raises(InputError, match=rf"^metrics\.accuracy\.target: .*{message}"):
        PythonMetric(PythonMetricSettings(target=target))


def test_outputs_that_the_model_does_not_have_are_an_input_error(made):
    with pytest.raises(InputError, match=r"outputs: is \[2\]; the model has 1 outputs"):
        made("share", outputs=[2]).keep([np.zeros(3)])
