"""Reading and preparing flatbuffers."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from nc_strategies_litert.graph import Graph, computing, order_outputs, prepare
from nc_strategies_litert.interpreter import ResizedInterpreter
from nc_strategies_litert.probe import operator_model

from nc_strategies.api import InputError


def test_operators_have_short_unique_names_of_their_place_in_the_model(sample):
    graph = Graph(prepare(sample.files["tflite"].read_bytes()))
    names = [op.name for op in computing(graph)]
    assert len(set(names)) == len(names) == 11
    assert not any(";" in name for name in names)
    assert {"fashion_cnn_1/stem_1/convolution", "fashion_cnn_1/res_add_1/Add", "fashion_cnn_1/pool_1/Mean"} <= {*names}


def test_tensors_of_a_prepared_model_have_different_names(sample):
    graph = Graph(prepare(sample.files["tflite"].read_bytes()))
    names = [tensor.name for tensor in graph.tensors]
    assert len(set(names)) == len(names)


def test_a_prepared_model_computes_the_same(sample, images):
    results = []
    content = sample.files["tflite"].read_bytes()
    for each in (content, prepare(content)):
        interpreter = ResizedInterpreter(each, 1)
        interpreter.run({"image": images})
        results.append(interpreter.results()[0])
    np.testing.assert_array_equal(*results)


def test_constants_behind_the_flatbuffer_are_read_and_written(ready):
    backend, space = ready
    content = backend._content(space.default())  # ai-edge-quantizer writes constants from 1 kB on there
    graph = Graph(content)
    outside = [b for b in flatbuffer_utils.convert_bytearray_to_object(content).buffers if b.offset]
    assert outside
    assert all(graph.tensors[op.weight].constant for op in graph.ops if op.weight is not None)
    assert bytes(flatbuffer_utils.convert_object_to_bytearray(graph.model)) != content
    again = ResizedInterpreter(bytes(flatbuffer_utils.convert_object_to_bytearray(graph.model)), 1)
    x = np.zeros((1, 28, 28, 1), np.float32)
    again.run({"image": x})
    np.testing.assert_array_equal(again.results()[0], backend.build(space.default()).predict({"image": x})[0])


def with_computed_shape():
    """A convolution, and a RESHAPE to [size of the batch, ...] that SHAPE, STRIDED_SLICE and PACK compute."""
    content, x = operator_model("CONV_2D", size=4, channels=3)
    model = flatbuffer_utils.convert_bytearray_to_object(content)
    main = model.subgraphs[0]
    for tensor in main.tensors[:2]:
        tensor.shapeSignature = np.array([-1, *tensor.shape[1:]], np.int32)

    def tensor(name, kind, shape, values=None):
        made = schema.TensorT()
        made.name, made.type, made.shape = name.encode(), kind, np.array(shape, np.int32)
        buffer = schema.BufferT()
        if values is not None:
            buffer.data = np.frombuffer(np.array(values, np.int32).tobytes(), np.uint8)
        model.buffers.append(buffer)
        made.buffer = len(model.buffers) - 1
        main.tensors.append(made)
        return len(main.tensors) - 1

    def operator(kind, inputs, output, which=0, options=None):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        code.version = 1
        model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex = len(model.operatorCodes) - 1
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        made.builtinOptionsType, made.builtinOptions = which, options
        main.operators.append(made)

    integer = schema.TensorType.INT32
    shape, batch = tensor("shape", integer, [4]), tensor("batch", integer, [])
    ends = [tensor(name, integer, [1], [value]) for name, value in (("begin", 0), ("end", 1), ("stride", 1))]
    rest, target = tensor("rest", integer, [], [48]), tensor("target", integer, [2])
    flat = tensor("flat", schema.TensorType.FLOAT32, [1, 48])
    main.tensors[flat].shapeSignature = np.array([-1, 48], np.int32)
    slicing, packing = schema.StridedSliceOptionsT(), schema.PackOptionsT()
    slicing.shrinkAxisMask, packing.valuesCount = 1, 2
    operator("SHAPE", [1], shape, schema.BuiltinOptions.ShapeOptions, schema.ShapeOptionsT())
    main.operators[-1].builtinOptions.outType = integer
    operator("STRIDED_SLICE", [shape, *ends], batch, schema.BuiltinOptions.StridedSliceOptions, slicing)
    operator("PACK", [batch, rest], target, schema.BuiltinOptions.PackOptions, packing)
    operator("RESHAPE", [1, target], flat)
    main.outputs = np.array([flat], np.int32)
    model.signatureDefs[0].outputs[0].tensorIndex = flat
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)), x


def test_a_reshape_to_a_computed_shape_becomes_constant_for_every_batch_size():
    content, x = with_computed_shape()
    prepared = prepare(content)
    assert [op.type for op in Graph(prepared).ops] == ["CONV_2D", "RESHAPE"]
    for samples in (1, 3):
        results = []
        for each in (content, prepared):
            interpreter = ResizedInterpreter(each, 1)
            interpreter.run({"x": np.concatenate([x] * samples)})
            results.append(interpreter.results()[0])
        assert results[0].shape == (samples, 48)
        np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-5)


def test_outputs_are_ordered_by_name_of_the_signature():
    content, _ = operator_model("FULLY_CONNECTED")
    model = flatbuffer_utils.convert_bytearray_to_object(content)
    main = model.subgraphs[0]
    main.outputs = np.array([1, 0], np.int32)
    item = schema.TensorMapT()
    item.name, item.tensorIndex = b"copy", 0
    model.signatureDefs[0].outputs.append(item)
    content = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    assert list(Graph(content).outputs) == ["y", "copy"]
    assert list(Graph(order_outputs(content, ["copy", "y"])).outputs) == ["copy", "y"]


def test_a_quantized_model_is_refused_in_one_line(ready):
    backend, space = ready
    with pytest.raises(InputError, match=r"^model\.path: the \.tflite model is quantized already; a floating-point"):
        prepare(backend._content(space.default()))


@pytest.mark.parametrize("content", [b"", b"no model", bytes(1000)])
def test_a_file_that_is_no_tflite_model_is_refused(content):
    with pytest.raises(InputError, match=r"^model\.path: this is no \.tflite model"):
        prepare(content)
