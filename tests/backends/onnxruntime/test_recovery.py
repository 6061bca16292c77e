"""Recovery in the ONNX Runtime backend: less noise on new data, the same operators in int8, each method optional."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from nc_strategies.backends.onnxruntime import recover
from nc_strategies.backends.onnxruntime.backend import OnnxRuntimeBackend
from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.calibration import recovery
from nc_strategies.errors import InputError
from nc_strategies.models import ModelSource
from nc_strategies.onnx_graph import external
from nc_strategies.space import FLOAT, Config


def beside(name):
    """A module of small models in this folder."""
    spec = importlib.util.spec_from_file_location(f"small_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


models, transformer = beside("models"), beside("transformer")


def ready(path, batches, **settings):
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings(**{"equalize": "never", **settings}))
    backend.load(ModelSource("small", {"onnx": path}))
    backend.capabilities()
    backend.calibrate(batches)
    return backend


def config(backend, choose=lambda op: op.schemes[0]):
    ops = tuple((op.name, choose(op)) for op in backend.capabilities().ops)
    return Config(ops, (("reduce_range", backend.reduce_range),))


def four_bits(op):
    return next((s for s in op.schemes if s.weight is not None and s.weight.dtype == "int4"), FLOAT)


def noise(backend, chosen, batch):
    fp32, int8 = (model.predict(batch)[0] for model in (backend.reference(), backend.build(chosen)))
    return float(np.square(int8 - fp32).sum() / np.square(fp32).sum())


def text(count=64, seed=0):
    """Tokens with correlated channels, as those of a model are."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(4, transformer.WIDTH))
    values = rng.normal(size=(count, transformer.LENGTH, 4)) @ mixing
    return {"x": (values + 0.1 * rng.normal(size=(count, transformer.LENGTH, transformer.WIDTH))).astype(np.float32)}


def pictures(count=40, seed=0):
    return {"x": np.random.default_rng(seed).normal(size=(count, 3, 9, 9)).astype(np.float32)}


def narrow(path, stream=0):
    """Residual blocks of convolutions, between which channels differ in range by powers of two up to `stream`."""
    b = models.Builder(3)
    factors = 2.0 ** b.rng.integers(-stream, stream + 1, 8)

    def conv(x, name, cin, cout, rows=1.0, columns=1.0):
        values = (
            b.rng.normal(size=(cout, cin, 3, 3)) / np.reshape(columns, (1, -1, 1, 1)) * np.reshape(rows, (-1, 1, 1, 1))
        )
        b.constant(f"{name}_w", values / (3 * cin**0.5))
        b.constant(f"{name}_b", 0.1 * b.rng.normal(size=cout) * rows)
        return b.node("Conv", [x, f"{name}_w", f"{name}_b"], name, pads=[1, 1, 1, 1])

    x = b.node("Relu", [conv("x", "stem", 3, 8, factors)], "r0")
    for block in (1, 2):
        y = b.node("Relu", [conv(x, f"a{block}", 8, 8, columns=factors)], f"ra{block}")
        x = b.node("Relu", [b.node("Add", [conv(y, f"b{block}", 8, 8, factors), x], f"s{block}")], f"r{block}")
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "flat")
    b.constant("fc", b.rng.normal(size=(8, 5)) / factors[:, None])
    b.constant("fc_b", b.rng.normal(size=5))
    b.node("Gemm", [x, "fc", "fc_b"], "y")
    return b.save(path, ["N", 3, 9, 9], ["N", 5])


def dynamic(op):
    return recover.dynamic_scheme(op) or FLOAT


CASES = {
    "smooth_quant": (lambda path: transformer.block(path, spread=4), text, dynamic),
    "residual_equalization": (lambda path: narrow(path, stream=4), pictures, lambda op: op.schemes[0]),
    "smooth_quant_with_mul": (lambda path: transformer.block(path, after=True, spread=4), text, dynamic),
}


@pytest.mark.parametrize("method", CASES)
def test_scaled_channels_leave_less_noise_on_new_data_and_the_same_operators_in_int8(tmp_path, method):
    make, data, choose = CASES[method]
    path = make(tmp_path / "m.onnx")
    plain, better = ready(path, [data()], recovery="none"), ready(path, [data()], recovery=method)
    (record,) = better.recovery
    assert (record.method, record.adopted) == (method, True)
    assert record.noise_of == ("dynamic products" if choose is dynamic else "int8 everywhere")
    assert record.noise_after < 0.95 * record.noise_before
    new, chosen = data(seed=5), config(plain, choose)
    assert noise(better, chosen, new) < 0.6 * noise(plain, chosen, new)
    chosen = config(plain)
    assert better.build(chosen).executed().int8 == plain.build(chosen).executed().int8
    everything = Config(tuple((name, FLOAT) for name, _ in chosen.ops), chosen.options)
    # Factors are powers of two; only the form of attention that is measured to be faster may differ.
    for mine, theirs in zip(better.build(everything).predict(new), plain.build(everything).predict(new), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("method", ["gptq", "smooth_quant"])
def test_weights_in_files_are_recovered_as_those_in_memory(tmp_path, monkeypatch, method):
    path = transformer.block(tmp_path / "m.onnx", spread=4)
    inside = ready(path, [text()], recovery=method, modes="all", fused_attention="never")
    monkeypatch.setattr(external, "LIMITS", replace(external.LIMITS, model_bytes=1000, tensor_bytes=256))
    outside = ready(path, [text()], recovery=method, modes="all", fused_attention="never")
    assert outside.graph.files is not None
    (mine,), (theirs,) = outside.recovery, inside.recovery
    assert (mine.method, mine.adopted) == (theirs.method, theirs.adopted) == (method, True)
    chosen, new = config(inside, four_bits if method == "gptq" else dynamic), text(seed=5)
    for one, other in zip(outside.build(chosen).predict(new), inside.build(chosen).predict(new), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_rounding_halves_the_noise_of_four_bits_on_new_data(tmp_path):
    path = transformer.block(tmp_path / "m.onnx")
    plain = ready(path, [text()], recovery="none", modes="all")
    better = ready(path, [text()], recovery="gptq", modes="all")
    (record,) = better.recovery
    assert record.adopted
    assert record.noise_of == "rounded weights"
    chosen = config(plain, four_bits)
    assert any(not scheme.is_float for _, scheme in chosen.ops), "the engine has no 4-bit kernel"
    assert noise(better, chosen, text(seed=5)) < 0.5 * noise(plain, chosen, text(seed=5))


def test_convolutions_are_rounded_too(tmp_path):
    path = narrow(tmp_path / "m.onnx")
    plain, better = (ready(path, [pictures()], recovery=name, reduce_range="always") for name in ("none", "gptq"))
    changed = [
        op.name
        for op in plain.graph.fused_ops.values()
        if op.weight is not None
        and not np.array_equal(
            plain.weights.plain(op, "per_channel", True)[0],
            better.weights.plain(better.graph.fused_ops[op.name], "per_channel", True)[0],
        )
    ]
    assert {"Conv_a1", "Conv_b1", "Conv_a2"} <= set(changed)
    (record,) = better.recovery
    assert (record.adopted, record.operators) == (True, len(changed))


@pytest.mark.parametrize("choose", [lambda op: op.schemes[0], four_bits])
def test_a_corrected_bias_makes_up_for_the_mean_error_of_the_weights(tmp_path, choose):
    """Rows far from zero: what rounding takes from them is nearly the same for all."""
    path = transformer.block(tmp_path / "m.onnx", after=True)

    def data(seed=0):
        values = 0.1 * text(seed=seed)["x"] + np.linspace(-2, 2, transformer.WIDTH, dtype=np.float32)
        return {"x": values.astype(np.float32)}

    plain = ready(path, [data()], recovery="none", modes="all")
    better = ready(path, [data()], recovery="bias_correction", modes="all")
    (record,) = better.recovery
    assert record.adopted
    assert record.noise_after < 0.7 * record.noise_before
    chosen = config(plain, four_bits)
    assert noise(better, chosen, data(5)) < 0.7 * noise(plain, chosen, data(5))
    chosen = config(plain, choose)
    assert better.build(chosen).executed().int8 == plain.build(chosen).executed().int8


def test_what_is_saved_is_what_was_measured(tmp_path):
    backend = ready(transformer.block(tmp_path / "m.onnx", spread=3), [text()], recovery=list(recovery.METHODS))
    assert any(record.adopted for record in backend.recovery)
    measured, opened = backend.build(config(backend)), backend.open(backend.save(config(backend), tmp_path / "out"))
    np.testing.assert_array_equal(measured.predict(text(8))[0], opened.predict(text(8))[0])


def test_what_does_not_gain_is_undone(tmp_path, monkeypatch):
    path = transformer.block(tmp_path / "m.onnx", spread=4)
    monkeypatch.setattr(recovery, "LIMITS", recovery.RecoveryLimits(max_noise_ratio=-1.0))
    backend, plain = ready(path, [text()], recovery=list(recovery.METHODS)), ready(path, [text()], recovery="none")
    assert not any(record.adopted for record in backend.recovery)
    assert any(record.operators for record in backend.recovery)
    for mine, theirs in zip(
        backend.build(config(plain)).predict(text(8)), plain.build(config(plain)).predict(text(8)), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_auto_tries_nothing_where_int8_everywhere_has_next_to_no_noise(tmp_path, monkeypatch):
    monkeypatch.setattr(recover, "LIMITS", recovery.RecoveryLimits(negligible_noise=1.0))
    backend = ready(narrow(tmp_path / "m.onnx"), [pictures()])
    assert [record.method for record in backend.recovery] == list(recovery.AUTO_METHODS)
    assert all("noise-to-signal ratio" in record.note and not record.adopted for record in backend.recovery)
    named = ready(tmp_path / "m.onnx", [pictures()], recovery=["gptq"])
    assert [record.note for record in named.recovery] == [""]


@pytest.mark.parametrize("count", [1, 2])
def test_without_samples_to_hold_out_nothing_is_adopted(tmp_path, count):
    backend = ready(narrow(tmp_path / "m.onnx"), [pictures(1)] * count, recovery="gptq")
    assert [(record.adopted, record.note) for record in backend.recovery] == [
        (False, "there are too few calibration samples to hold some out")
    ]


def test_no_time_and_a_cautious_calibration_run_nothing(tmp_path):
    backend = OnnxRuntimeBackend(OnnxRuntimeSettings())
    backend.load(ModelSource("small", {"onnx": narrow(tmp_path / "m.onnx")}))
    backend.recovery_seconds = 0.0
    backend.calibrate([pictures()])
    assert backend.recovery
    assert {(record.adopted, record.note) for record in backend.recovery} == {(False, "no time left")}
    backend.cautious = True
    backend.calibrate([pictures()])
    assert backend.recovery == ()


def test_held_out_samples_are_apart_from_those_of_the_fit(tmp_path):
    backend = ready(narrow(tmp_path / "m.onnx"), [pictures()], recovery="none")
    info = backend.graph.info
    batches = [{"x": np.arange(start, start + 10, dtype=np.float32)} for start in range(0, 40, 10)]
    pieces = recover.split(batches, info, 4)
    fit, held_out = (np.concatenate([feed["x"] for feed in feeds]) for feeds in (pieces.fit, pieces.held_out))
    assert sorted([*fit, *held_out]) == list(range(40))
    assert len(held_out) == 8
    assert max(len(feed["x"]) for feed in (*pieces.fit, *pieces.held_out)) <= 4
    single = recover.split([{"x": np.full(1, float(i))} for i in range(8)], info, 4)
    assert [float(feed["x"][0]) for feed in single.held_out] == [3.0, 7.0]


def test_another_name_of_a_method_is_refused():
    with pytest.raises(InputError, match=r"backend\.recovery.*adaround.*allowed: auto, none"):
        OnnxRuntimeBackend(OnnxRuntimeSettings(recovery=["adaround"]))


def test_channels_whose_scale_is_widened_for_a_large_bias_keep_the_rounding_of_the_others(tmp_path):
    path = narrow(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    for initializer in model.graph.initializer:
        if initializer.name == "a1_w":
            values = onnx.numpy_helper.to_array(initializer).copy()
            values[2] *= 1e-9  # with a normal bias, the scale of this channel has to grow
            initializer.CopyFrom(onnx.numpy_helper.from_array(values, "a1_w"))
    onnx.save(model, str(path))
    backend = ready(path, [pictures()], recovery="gptq")
    op = backend.graph.fused_ops["Conv_a1"]
    plain, scale = backend.weights.plain(op, "per_channel", backend.reduce_range)
    used, wide, _ = backend.weights.get(op, "per_channel", backend.reduce_range, 0.01)
    assert (wide != scale).tolist() == [channel == 2 for channel in range(8)]
    others = np.arange(8) != 2
    np.testing.assert_array_equal(used[others], plain[others])
    nearest = ready(path, [pictures()], recovery="none").weights.plain(op, "per_channel", backend.reduce_range)[0]
    assert not np.array_equal(plain[others], nearest[others])


def test_the_bias_of_an_int8_convolution_holds_the_correction(tmp_path):
    path, offset = narrow(tmp_path / "m.onnx"), [{"x": pictures()["x"] + np.float32(2)}]
    backend = ready(path, offset, recovery="bias_correction")
    (record,) = backend.recovery
    assert record.adopted
    step, found = 0.01, []
    for op in backend.graph.fused_ops.values():
        correction = backend.weights.correction(op, "per_channel", backend.reduce_range) if op.bias else None
        if correction is not None:
            _, scale, bias = backend.weights.get(op, "per_channel", backend.reduce_range, step)
            added = bias * step * scale.astype(np.float64) - backend.graph.array(op.bias)
            np.testing.assert_allclose(added, correction, atol=1e-4)
            found.append(float(np.abs(correction).max()))
    assert len(found) == record.operators
    assert max(found) > 1e-3


@pytest.mark.parametrize(("equalize", "done"), [("never", False), ("auto", True)])
def test_without_equalization_channels_between_two_weights_are_left_alone(tmp_path, equalize, done, monkeypatch):
    """Normally equalization comes first; here it decides against it."""
    monkeypatch.setattr(OnnxRuntimeBackend, "_noise", lambda self, batch: 1.0)
    b = models.Builder(3)
    b.constant("a", b.rng.normal(size=(16, 16)) * (factors := 2.0 ** b.rng.integers(-5, 6, 16)))
    b.constant("b", b.rng.normal(size=(16, 16)) / factors[:, None])
    b.node("Gemm", [b.node("Gemm", ["x", "a"], "first"), "b"], "y")
    path = b.save(tmp_path / "m.onnx", ["N", 16], ["N", 16])
    data = [{"x": np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)}]
    (record,) = ready(path, data, recovery="smooth_quant", equalize=equalize).recovery
    assert record.adopted is done
