"""The bundled text sample: what it holds, and that modes of quantization differ on it."""

from __future__ import annotations

import struct

import numpy as np
import onnxruntime as ort
import pytest

from nc_strategies import samples
from nc_strategies.app.settings import run_config
from nc_strategies.app.target import build
from nc_strategies.samples.train_text import LANGUAGES, catalogue
from nc_strategies.space import Space
from nc_strategies.testing import DataSuite

TEXTS = 120
"""Texts that are run one by one."""
SENSITIVE = "layer0.attention.value/MatMul"
"""A product behind a LayerNorm with channels of large gains."""


class TestSuite(DataSuite):
    calibration_samples = 50

    def make(self):
        from nc_strategies.data.settings import SampleTextSettings
        from nc_strategies.data.text import SampleTextData

        return SampleTextData(SampleTextSettings(calibration_samples=50))


@pytest.fixture(scope="module")
def target():
    settings = {
        "strategy": {"name": "basic"},
        "backend": {"name": "onnxruntime", "recovery": "none"},  # it would recover most of what static int8 loses
        "executor": {"name": "serial"},
        "model": {"name": "sample_text"},
        "data": {"name": "sample_text"},
        "metrics": {"accuracy": {"name": "top1"}},
        "measure": {"threads": 1},
    }
    target = build(run_config(settings))
    target.load()
    target.space = Space(target.calibrate())
    return target


def one_by_one(target, scheme=None):
    """The logits of the first texts, each without padding, with a scheme for the sensitive product."""
    config = target.space.all_float()
    model = target.parts.backend.build(config.with_op(SENSITIVE, scheme=scheme) if scheme else config)
    inputs = target.parts.evaluation.inputs
    lengths = inputs["attention_mask"].sum(1)[:TEXTS]
    logits = [
        model.predict({name: array[row : row + 1, :length] for name, array in inputs.items()})[0]
        for row, length in enumerate(lengths)
    ]
    model.close()
    return np.concatenate(logits)


def test_the_model_tells_languages_well_but_not_perfectly(target):
    raw = target.parts.evaluation
    assert set(np.unique(raw.labels)) == set(range(len(LANGUAGES)))
    session = ort.InferenceSession(str(samples.text_onnx_model()), providers=["CPUExecutionProvider"])
    logits = session.run(None, {name: array[:500] for name, array in raw.inputs.items()})[0]
    assert 0.83 < (logits.argmax(1) == raw.labels[:500]).mean() < 0.97


def test_static_int8_is_wrong_where_dynamic_and_weight_only_are_right(target):
    schemes = next(op.schemes for op in target.space.quantizable if op.name == SENSITIVE)
    chosen = {scheme.mode: scheme for scheme in reversed(schemes)}
    chosen["weight_only"] = next(s for s in schemes if s.mode == "weight_only" and s.weight.dtype == "int8")
    fp32 = one_by_one(target)
    noise = {mode: float(((one_by_one(target, scheme) - fp32) ** 2).mean()) for mode, scheme in chosen.items()}
    assert noise["static"] > 4 * noise["dynamic"]
    assert noise["static"] > 20 * noise["weight_only"]


def test_the_sample_is_small_and_names_its_source():
    folder = samples.text_onnx_model().parent
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6_000_000
    assert "Django Software Foundation" in (folder.parent / "LICENSE-django.txt").read_text()


@pytest.mark.parametrize("order", ["<", ">"])
def test_catalogues_of_both_byte_orders_are_read(tmp_path, order):
    pairs = [(b"", b"Language: de\n"), (b"day\0days", b"Tag\0Tage"), (b"name", "Größe".encode())]
    strings, tables = b"", [b"", b""]
    start = 28 + 16 * len(pairs)
    for pair in pairs:
        for place, text in enumerate(pair):
            tables[place] += struct.pack(f"{order}2I", len(text), start + len(strings))
            strings += text + b"\0"
    head = struct.pack(f"{order}7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    (tmp_path / "a.mo").write_bytes(head + tables[0] + tables[1] + strings)
    assert catalogue(tmp_path / "a.mo") == {"": "Language: de\n", "day": "Tag", "name": "Größe"}
