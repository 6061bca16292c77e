"""The backend on the bundled classifier, and models that it saves."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from nc_strategies_litert import LiteRtSettings, probe
from nc_strategies_litert.backend import LiteRtBackend
from nc_strategies_litert.convert import convert_in_child
from nc_strategies_litert.model import TfliteModel
from nc_strategies_litert.settings import TfliteModelSettings

from nc_strategies import samples
from nc_strategies.api import EngineError, InputError, ModelSource, Space


def stock_outputs(path, images):
    """What a user of LiteRT gets, one sample at a time."""
    interpreter = Interpreter(str(path))
    run = interpreter.get_signature_runner()
    return np.concatenate([run(image=image[None])["output_0"] for image in images])


def test_the_stock_interpreter_gives_the_outputs_that_were_measured(ready, images, tmp_path):
    backend, space = ready
    config = space.sample(np.random.default_rng(5))
    path = backend.save(config, tmp_path)
    np.testing.assert_allclose(
        stock_outputs(path, images), backend.build(config).predict({"image": images})[0], atol=1e-5
    )


def test_names_and_free_batch_of_the_original_are_kept(ready):
    info = ready[0]._info
    assert info.text() == "the model's inputs: image (N, 28, 28, 1) float32; outputs: output_0 (N, 10) float32"


def test_int8_inputs_and_outputs_hold_their_scale_and_give_the_same_classes(sample, images, tmp_path):
    backend = LiteRtBackend(LiteRtSettings(int8_io=True, modes="static"))
    backend.load(sample)
    backend.calibrate([{"image": images}])
    space = Space(backend.capabilities())
    config = space.default()
    path = backend.save(config, tmp_path)
    interpreter = Interpreter(str(path))
    ends = (*interpreter.get_input_details(), *interpreter.get_output_details())
    assert [end["dtype"] for end in ends] == [np.int8, np.int8]
    assert all(end["quantization"][0] > 0 for end in ends)
    ours, saved = backend.build(config).predict({"image": images})[0], backend.open(path).predict({"image": images})[0]
    np.testing.assert_array_equal(ours, saved)
    fp32 = backend.reference().predict({"image": images})[0]
    assert (ours.argmax(1) == fp32.argmax(1)).mean() > 0.9


def test_batches_of_different_sizes_give_the_same_rows(ready, images):
    backend, space = ready
    model = backend.build(space.default())
    whole = model.predict({"image": images})[0]
    for size in (1, 5, 7, 11, 13, 1):
        np.testing.assert_allclose(model.predict({"image": images[:size]})[0], whole[:size], atol=1e-6)
    assert len(model._interpreters) <= 4
    model.close()
    with pytest.raises(EngineError, match="closed"):
        model.predict({"image": images})


def test_a_batch_of_another_shape_is_refused_by_an_engine_error(ready):
    backend, space = ready
    with pytest.raises(EngineError, match=r"input 'image' takes the shape \[-1, 28, 28, 1\], not \[1, 14, 14, 1\]"):
        backend.build(space.all_float()).predict({"image": np.zeros((1, 14, 14, 1), np.float32)})


def test_the_ranges_of_an_algorithm_reach_the_file(ready):
    backend, space = ready
    contents = set()
    for algorithm in ("minmax", "percentile", "kl"):
        chosen = {
            name: next(s for s in op.schemes if s.is_static and s.activation.algorithm == algorithm)
            for name, op in space.ops.items()
            if not op.opt_in
        }
        contents.add(backend._content(space.default().with_ops(chosen)))
    assert len(contents) == 3


def test_modes_are_offered_as_the_setting_says(sample):
    offered = {}
    for modes in ("static", "auto", "all"):
        backend = LiteRtBackend(LiteRtSettings(modes=modes))
        backend.load(sample)
        offered[modes] = {scheme.mode for op in backend.capabilities().ops for scheme in op.schemes}
    assert offered == {
        "static": {"static", "fp32"},
        "auto": {"static", "dynamic", "fp32"},
        "all": {"static", "dynamic", "weight_only", "fp32"},
    }


def test_dynamic_is_offered_only_where_the_delegate_executes_it(ready):
    _, space = ready
    types = {op.type for op in space.ops.values() if any(scheme.mode == "dynamic" for scheme in op.schemes)}
    assert types == {"CONV_2D", "FULLY_CONNECTED"}  # a dynamic depthwise convolution is left to a slow kernel


def test_softmax_runs_in_int8_on_request_only(ready):
    _, space = ready
    softmax = next(op for op in space.ops.values() if op.type == "SOFTMAX")
    assert softmax.opt_in
    assert space.default().schemes[softmax.name].is_float


def test_kernels_are_tried_and_the_answer_is_kept(monkeypatch):
    assert set(probe.held()) >= set(probe.CASES)
    monkeypatch.setattr(probe, "run_child", lambda *_: pytest.fail("the answer was not kept"))
    assert probe.held.__wrapped__() == probe.held()


def test_a_case_whose_process_ends_is_not_offered(monkeypatch, sample):
    def run(module, request, key, what):
        if "CONV_2D/dynamic" in request["cases"]:
            raise InputError(key, f"{what} ended with status -11")
        return dict.fromkeys(request["cases"], 0.0)

    monkeypatch.setattr(probe, "read_cache", lambda name: None)
    monkeypatch.setattr(probe, "keep_in_cache", lambda name, text: None)
    monkeypatch.setattr(probe, "run_child", run)
    held = probe.held.__wrapped__()
    assert "CONV_2D/dynamic" not in held
    assert "CONV_2D/static" in held
    monkeypatch.setattr(probe, "held", lambda: held)
    backend = LiteRtBackend(LiteRtSettings())
    backend.load(sample)
    dynamic = {op.type for op in backend.capabilities().ops if any(s.mode == "dynamic" for s in op.schemes)}
    assert dynamic == {"FULLY_CONNECTED"}


def test_without_the_profiler_the_flatbuffer_decides(ready, monkeypatch):
    backend, space = ready
    with_profiler = backend.build(space.default())
    monkeypatch.setattr(probe, "profiler_works", lambda: False)
    without = backend.build(space.default())
    assert without.profile({"image": np.zeros((1, 28, 28, 1), np.float32)}, 1) is None
    assert without.executed() == with_profiler.executed()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"percentile": 40.0}, "backend.percentile: is 40.0; above 50, at most 100"),
        ({"modes": "int8"}, "backend.modes: is 'int8'; allowed: auto, static, all"),
    ],
)
def test_settings_out_of_range_are_refused(settings, line):
    with pytest.raises(InputError) as raised:
        LiteRtBackend(LiteRtSettings(**settings))
    assert str(raised.value) == line


def test_a_missing_tflite_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^model\.path: no such file: .*; model=tflite takes a \.tflite file"):
        TfliteModel(TfliteModelSettings(path=str(tmp_path / "no.tflite"))).load()


def test_a_model_that_tensorflow_cannot_read_is_refused_in_one_line(tmp_path):
    pytest.importorskip("tensorflow")
    path = tmp_path / "broken.keras"
    path.write_bytes(b"no model")
    with pytest.raises(InputError, match=r"^model\.path") as raised:
        LiteRtBackend(LiteRtSettings()).load(ModelSource("broken", {"keras": path}))
    assert "\n" not in str(raised.value)


def test_without_tensorflow_a_keras_file_is_refused_with_the_command(tmp_path, monkeypatch):
    (tmp_path / "tensorflow.py").write_text("raise ModuleNotFoundError('no tensorflow here', name='tensorflow')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        InputError, match=r"TensorFlow cannot be imported .*; pip install 'nc-strategies\[tensorflow\]'"
    ):
        convert_in_child(ModelSource("sample", {"keras": samples.keras_model()}), tmp_path / "model.tflite")


@pytest.fixture
def without_the_engine(tmp_path):
    """Runs a command in an environment whose packages ai_edge_litert and ai_edge_quantizer cannot be imported."""
    for name in ("ai_edge_litert", "ai_edge_quantizer"):
        line = f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')\n"
        (tmp_path / f"{name}.py").write_text(line)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def run(*arguments):
        command = [sys.executable, "-m", "nc_strategies", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    return run


def test_a_missing_package_is_one_line_with_the_command_and_status_2(without_the_engine):
    done = without_the_engine("backend=litert", "run_dir=out")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "pip install nc-strategies-litert" in line.replace("'", "")


def test_nothing_of_the_engine_is_needed_unless_it_is_chosen(without_the_engine):
    done = without_the_engine("list", "backend")
    assert done.returncode == 0
    assert "litert" in done.stdout
