"""Mixed configurations: what was asked, what the backend counts, and what the file's own accessors say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from nc_strategies_litert import LiteRtSettings
from nc_strategies_litert.backend import LiteRtBackend

from nc_strategies.api import ModelSource, Space

CONFIGURATIONS = 30
MOBILENET = Path(__file__).parents[4] / "shared" / "data" / "mobilenet_v1.keras"


def types_in_file(content):
    """Operator name to (types of its inputs that are no constants, of its weight, of its output), read with accessors.

    A weight behind DEQUANTIZE has the type ``(stored, FLOAT32)``.
    """
    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    stored = {}
    for index in range(graph.OperatorsLength()):
        op = graph.Operators(index)
        if model.OperatorCodes(op.OpcodeIndex()).BuiltinCode() == schema.BuiltinOperator.DEQUANTIZE:
            source = graph.Tensors(op.Inputs(0))
            if model.Buffers(source.Buffer()).DataLength() or model.Buffers(source.Buffer()).Size():
                stored[op.Outputs(0)] = source.Type()
    found = {}
    for index in range(graph.OperatorsLength()):
        op = graph.Operators(index)
        made = graph.Tensors(op.Outputs(0))
        weight = op.Inputs(1) if op.InputsLength() > 1 else None
        found[made.Name().decode()] = (
            graph.Tensors(op.Inputs(0)).Type(),
            stored.get(weight, None if weight is None else graph.Tensors(weight).Type()),
            made.Type(),
        )
    return found


def mode_in_file(types):
    read, weight, made = types
    int8, floating = schema.TensorType.INT8, schema.TensorType.FLOAT32
    if (read, made) == (int8, int8):
        return "static"
    assert (read, made) == (floating, floating)
    return "quantized weight" if weight == int8 else "fp32"


def check(backend, space, tmp_path, count):
    rng = np.random.default_rng(1)
    for _ in range(count):
        config = space.sample(rng)
        model = backend.build(config)
        executed = model.executed()
        model.close()
        assert executed.int8_names & set(space.ops) == set(config.int8_ops)
        asked = {mode: sum(scheme.mode == mode for _, scheme in config.ops) for mode in ("dynamic", "weight_only")}
        assert {mode: sum(executed.modes.get(mode, {}).values()) for mode in asked} == asked
        types = types_in_file(backend.save(config, tmp_path).read_bytes())
        in_file = {name: mode_in_file(types[name]) for name in space.ops}
        wanted = {n: s.mode if s.mode in ("static", "fp32") else "quantized weight" for n, s in config.ops}
        assert in_file == wanted


def test_thirty_random_configurations_execute_as_asked_and_as_the_file_says(ready, tmp_path):
    backend, space = ready
    check(backend, space, tmp_path, CONFIGURATIONS)


@pytest.mark.shared
@pytest.mark.slow
def test_thirty_random_configurations_of_mobilenet_execute_as_asked(tmp_path):
    if not MOBILENET.is_file():
        pytest.skip("../shared/data is not here")
    backend = LiteRtBackend(LiteRtSettings(modes="all"))
    info = backend.load(ModelSource("mobilenet_v1", {"keras": MOBILENET}))
    images = np.random.default_rng(0).uniform(-1, 1, (8, 64, 64, 3)).astype(np.float32)
    backend.calibrate([{info.inputs[0].name: images}])
    check(backend, Space(backend.capabilities()), tmp_path, CONFIGURATIONS)
