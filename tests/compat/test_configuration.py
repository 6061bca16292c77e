"""Neural Compressor's configuration classes: what is accepted, and what is refused with a reason."""

import copy
import pickle
import subprocess
import sys

import pytest

import nc_strategies
from nc_strategies.config import AccuracyCriterion, PostTrainingQuantConfig, TuningCriterion
from nc_strategies.errors import InputError

TOKEN = "secret-token-987654"


def test_the_defaults_are_those_that_are_documented():
    conf = PostTrainingQuantConfig()
    assert (conf.device, conf.backend, conf.approach, conf.quant_level) == ("cpu", "default", "static", "auto")
    assert (conf.calibration_sampling_size, conf.reduce_range) == ([100], None)
    tuning, accuracy = conf.tuning_criterion, conf.accuracy_criterion
    assert (tuning.strategy, tuning.timeout, tuning.max_trials) == ("basic", 0, 100)
    assert (accuracy.criterion, accuracy.tolerable_loss, accuracy.higher_is_better) == ("relative", 0.01, True)


def test_two_configurations_share_nothing():
    one, other = PostTrainingQuantConfig(), PostTrainingQuantConfig()
    one.tuning_criterion.max_trials = 3
    one.excluded_precisions.append("bf16")
    assert (other.tuning_criterion.max_trials, other.excluded_precisions) == (100, [])


@pytest.mark.parametrize(
    ("option", "value", "kept"),
    [
        ("op_type_dict", None, {}),
        (
            "op_name_dict",
            {"a": {"weight": None, "activation": {"dtype": "fp32"}}},
            {"a": {"activation": {"dtype": "fp32"}}},
        ),
        ("calibration_sampling_size", 50, [50]),
        ("calibration_sampling_size", [200], [200]),
        ("recipes", None, {}),
        ("recipes", {"smooth_quant": False, "gemm_to_matmul": False}, {"smooth_quant": False, "gemm_to_matmul": False}),
        ("approach", "post_training_static_quant", "static"),
        ("approach", "auto", "auto"),
        ("approach", "post_training_dynamic_quant", "dynamic"),
        ("approach", "weight_only", "weight_only"),
        ("excluded_precisions", "bf16", ["bf16"]),
        ("quant_level", 0, 0),
        ("quant_level", 1, 1),
        ("domain", "nlp", "nlp"),
        ("quant_format", "QDQ", "QDQ"),
        ("reduce_range", True, True),
        ("diagnosis", False, False),
        ("inputs", [], []),
    ],
)
def test_an_option_is_kept_in_one_form(option, value, kept):
    conf = PostTrainingQuantConfig(**{option: value})
    assert getattr(conf, option) == kept
    setattr(conf, option, value)
    assert getattr(conf, option) == kept


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("approach", "qat", "allowed: auto, static, dynamic, weight_only"),
        ("device", "gpu", "on the CPU"),
        ("device", "tpu", "allowed: cpu"),
        ("backend", "onnxrt_cuda_ep", "on the CPU"),
        ("backend", "itex", "no extension"),
        ("backend", "ipex", "PyTorch"),
        ("quant_format", "QOperator", "same int8 kernels"),
        ("calibration_sampling_size", [50, 100], "one size"),
        ("calibration_sampling_size", 0, "at least 1"),
        ("recipes", {"smooth_quant": True}, "not supported"),
        ("recipes", {"first_conv_or_matmul_quantization": False}, "op_name_dict"),
        ("recipes", {"nonsense": 1}, "is not a recipe; recipes: add_qdq_pair_to_weight"),
        ("recipes", [1], "a mapping"),
        ("inputs", ["x"], "read from"),
        ("example_inputs", [1], "torch.onnx.export"),
        ("diagnosis", True, "trials.jsonl"),
        ("quant_level", 2, "allowed: auto, 0, 1"),
        ("quant_level", True, "auto, 0, 1"),
        ("excluded_precisions", ["fp8"], "allowed: bf16"),
        ("op_type_dict", ["Conv"], "a mapping"),
        ("accuracy_criterion", {}, "AccuracyCriterion"),
        ("tuning_criterion", None, "TuningCriterion"),
    ],
)
def test_what_is_not_possible_is_refused_with_the_reason(option, value, reason):
    with pytest.raises(InputError, match=f"(?s)^{option}.*{reason}"):
        PostTrainingQuantConfig(**{option: value})


def test_an_option_that_is_none_is_an_error_when_set():
    with pytest.raises(InputError, match="aproach: is not an option"):
        PostTrainingQuantConfig().aproach = "static"


@pytest.mark.parametrize(
    ("objective", "wanted"),
    [
        ("performance", {"latency": 1.0}),
        (["performance", "modelsize"], {"latency": 1.0, "size": 1.0}),
        (["accuracy", "performance"], {"latency": 1.0}),
        ({"objective": ["performance", "modelsize"], "weight": [0.1, 0.9]}, {"latency": 0.1, "size": 0.9}),
        ({"objective": "modelsize"}, {"size": 1.0}),
    ],
)
def test_objectives_are_one_name_a_list_or_a_mapping_with_weights(objective, wanted):
    assert TuningCriterion(objective=objective).objectives == wanted


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        ("footprint", "cannot be measured"),
        ("accuracy", "is the constraint"),
        ("speed", "allowed: performance"),
        ([], "is"),
        ({"objective": ["accuracy", "performance"], "weight": [1, 1]}, "is the constraint"),
        ({"objective": ["performance"], "weight": [1, 1]}, "2 weights for 1"),
        ({"objective": ["performance"], "weight": [0]}, "more than 0"),
        ({"goal": ["performance"]}, "allowed: objective"),
        ({"objective": ["performance"], "higher_is_better": [True]}, "better when lower"),
    ],
)
def test_an_objective_that_cannot_be_is_refused_with_the_reason(objective, reason):
    with pytest.raises(InputError, match=f"^tuning_criterion.objective.*{reason}"):
        TuningCriterion(objective=objective)


def test_numbers_may_be_texts_and_must_be_numbers():
    assert AccuracyCriterion(tolerable_loss="0.02").tolerable_loss == 0.02
    for value in ("much", True, None, float("nan")):
        with pytest.raises(InputError, match=r"accuracy_criterion\.tolerable_loss"):
            AccuracyCriterion(tolerable_loss=value)
    with pytest.raises(InputError, match="whole number"):
        TuningCriterion(max_trials=1.5)


def test_relative_and_absolute_set_criterion_and_loss():
    criterion = AccuracyCriterion()
    criterion.absolute = 0.5
    assert (criterion.criterion, criterion.tolerable_loss, criterion.relative) == ("absolute", 0.5, None)
    criterion.relative = 0.03
    assert (criterion.criterion, criterion.relative, criterion.absolute) == ("relative", 0.03, None)


def test_a_secret_among_the_strategys_settings_is_shown_by_no_repr():
    conf = PostTrainingQuantConfig(
        tuning_criterion=TuningCriterion(
            strategy="sigopt", strategy_kwargs={"sigopt_api_token": TOKEN, "sigopt_project_id": "p"}
        )
    )
    for shown in (repr(conf), str(conf), f"{conf}", repr(conf.tuning_criterion.strategy_kwargs), repr(vars(conf))):
        assert TOKEN not in shown
        assert "sigopt_project_id" in shown
    assert conf.tuning_criterion.strategy_kwargs["sigopt_api_token"] == TOKEN
    assert TOKEN not in repr(copy.deepcopy(conf))
    assert TOKEN not in repr(pickle.loads(pickle.dumps(conf)))


def test_importing_the_package_and_the_configuration_imports_nothing_heavy():
    code = (
        "import sys, nc_strategies; "
        "from nc_strategies.config import PostTrainingQuantConfig; "
        "from nc_strategies import TuningCriterion, config; "
        "print({'numpy', 'onnxruntime', 'onnx', 'tensorflow', 'hydra', 'pluggy', 'rich', 'pandas', 'matplotlib'} "
        "& set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_public_name_is_there():
    for name in nc_strategies.__all__:
        assert getattr(nc_strategies, name) is not None
        assert name in dir(nc_strategies)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nc_strategies.nothing
