"""Neural Compressor's strategies by name, in Python and in files of 1.x."""

import pytest

from nc_strategies import config
from nc_strategies.compat.neural_compressor.strategies import strategy_of
from nc_strategies.errors import InputError
from nc_strategies.registry import registry

NAMES = ("basic", "conservative", "exhaustive", "hawq_v2", "mse", "mse_v2", "random")


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_of_neural_compressor_runs_under_its_name(name):
    assert strategy_of(name, {}, "auto", registry().names("strategy")) == {"name": name}


def test_the_lowest_level_is_the_conservative_strategy():
    assert strategy_of("basic", {}, 0, NAMES) == {"name": "conservative"}
    with pytest.raises(InputError, match="quant_level: is 0, which is the conservative strategy, but"):
        strategy_of("mse", {}, 0, NAMES)


@pytest.mark.parametrize("name", ["bayesian", "tpe", "auto_mixed_precision"])
def test_a_strategy_that_is_not_here_is_refused_unless_installed(name):
    with pytest.raises(InputError, match=rf"tuning_criterion.strategy: '{name}' is not supported: .*installed: basic"):
        strategy_of(name, {}, 1, NAMES)
    assert strategy_of(name, {"a": 1}, 1, (*NAMES, name)) == {"name": name, "a": 1}


def test_a_loss_function_for_the_hessian_is_refused_with_the_reason():
    with pytest.raises(InputError, match=r"strategy_kwargs.hawq_v2_loss: is not used: .*needs no loss function"):
        strategy_of("hawq_v2", {"hawq_v2_loss": print}, 1, NAMES)


FILE = """
version: 1.0
model: {name: mobilenet_v1, framework: onnxrt_integerops}
device: cpu
quantization:
  approach: post_training_static_quant
  calibration: {sampling_size: 50}
  op_wise: {"conv1.*": {activation: {dtype: [fp32]}, weight: {dtype: [fp32]}}}
tuning:
  strategy: {name: mse_v2, confidence_batches: 3}
  accuracy_criterion: {absolute: 0.02, higher_is_better: true}
  exit_policy: {timeout: 60, max_trials: 30}
"""


def read(tmp_path, text):
    path = tmp_path / "conf.yaml"
    path.write_text(text)
    return config.read_yaml(path)


def test_a_file_of_1_x_is_read(tmp_path):
    conf = read(tmp_path, FILE)
    tuning, accuracy = conf.tuning_criterion, conf.accuracy_criterion
    assert (conf.backend, conf.approach, conf.calibration_sampling_size) == ("onnxruntime", "static", [50])
    assert conf.op_name_dict == {"conv1.*": {"activation": {"dtype": ["fp32"]}, "weight": {"dtype": ["fp32"]}}}
    assert (tuning.strategy, tuning.strategy_kwargs) == ("mse_v2", {"confidence_batches": 3})
    assert (tuning.timeout, tuning.max_trials) == (60, 30)
    assert (accuracy.criterion, accuracy.tolerable_loss, accuracy.higher_is_better) == ("absolute", 0.02, True)


@pytest.mark.parametrize("name", [*NAMES, "sigopt"])
def test_a_file_may_name_every_strategy(tmp_path, name):
    conf = read(tmp_path, f"tuning: {{strategy: {{name: {name}}}, accuracy_criterion: {{relative: 0.01}}}}")
    assert (conf.tuning_criterion.strategy, conf.accuracy_criterion.relative) == (name, 0.01)
    assert conf.quant_level == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("evaluation: {accuracy: {metric: {topk: 1}}}", "evaluation: is not read: samples and metrics are given in"),
        ("quantization: {calibration: {dataloader: {batch_size: 1}}}", "calibration.dataloader: is not read"),
        ("pruning: {train: {}}", "pruning: is not read: models are quantized, not pruned"),
        ("tuning: {random_seed: 9527}", "tuning.random_seed: is not read: the seed is given in Python"),
        ("tuning: {exit_policy: {performance_only: true}}", "performance_only: is not supported"),
        ("tuning: {accuracy_criterion: {relative: 0.1, absolute: 0.1}}", "is both relative and absolute"),
        ("tuning: {accuracy_criterion: {relative: much}}", "accuracy_criterion.tolerable_loss: is 'much'"),
        ("tuning: {strategy: mse}", "tuning.strategy: is 'mse'; a mapping"),
        ("tuning: {strategies: {}}", "tuning.strategies: is not a key that is read; allowed: strategy, "),
        ("model: {framework: pytorch}", "model.framework: is 'pytorch'; allowed: onnxrt, tensorflow"),
        ("device: gpu", "device: 'gpu' is not supported"),
        ("[1, 2]", r"the file: is \[1, 2\]; a mapping"),
        ("a: [", "cannot be read"),
    ],
)
def test_what_a_file_of_1_x_may_not_hold_is_refused_with_the_reason(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        read(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nothing.yaml: cannot be read"):
        config.read_yaml(tmp_path / "nothing.yaml")
