"""Kernels of the delegate's profile, and the operators that they compute."""

from __future__ import annotations

import numpy as np
import pytest
from nc_strategies_litert.executed import assign, contradicts, count, delegated_ops
from nc_strategies_litert.graph import Graph, computing, prepare
from nc_strategies_litert.profiler import KernelEvent

AT_RUN_TIME = ("QD8", "QDU8", "QP8")
"""In names of kernels that quantize at run time: signed, unsigned (AMD with AVX512-VNNI), packed (Arm)."""


def events(*names):
    return [KernelEvent(name, index, True, 1e-6) for index, name in enumerate(names)]


def test_every_kernel_of_the_sample_is_assigned_to_its_operator(ready):
    backend, space = ready
    model = backend.build(space.default())
    graph = Graph(model._content)
    parts = delegated_ops(model._any().inner._get_ops_details())
    runs = model._events({"image": np.zeros((1, 28, 28, 1), np.float32)}, 1)
    found = assign(graph, parts, runs[0])
    assert {each.op.name for each in found if each.main and each.op is not None} >= {op.name for op in computing(graph)}
    assert all(each.op is not None for each in found)
    model.close()


@pytest.mark.parametrize("kind", AT_RUN_TIME)
def test_a_kernel_that_quantizes_at_run_time_belongs_to_the_product_behind_it(sample, kind):
    graph = Graph(prepare(sample.files["tflite"].read_bytes()))
    convolutions = [op for op in graph.ops if op.type == "CONV_2D"][:2]
    names = (f"Convert (NC, F32, {kind})", f"Convolution (NHWC, {kind}, F32, QC8W) IGEMM")
    found = assign(graph, [[op.index for op in convolutions]], events(*2 * names))
    assert [(each.op.name, each.main) for each in found] == [
        (op.name, main) for op in convolutions for main in (False, True)
    ]


def test_further_kernels_belong_to_the_operator_before_them(sample):
    graph = Graph(prepare(sample.files["tflite"].read_bytes()))
    add, mean = (next(op for op in graph.ops if op.type == kind) for kind in ("ADD", "MEAN"))
    found = assign(graph, [[add.index, mean.index]], events("Add (ND)", "Clamp (NC)", "Mean (ND) Reduce2"))
    assert [(each.op.type, each.main) for each in found] == [("ADD", True), ("ADD", False), ("MEAN", True)]


def test_an_operator_whose_kernel_computes_in_floating_point_is_not_counted_as_int8(ready):
    backend, space = ready
    graph = Graph(backend._content(space.default()))
    op = next(op for op in graph.ops if op.type == "FULLY_CONNECTED")
    assert op.name in count(graph, ()).int8_names
    found = assign(graph, [[op.index]], events("Fully Connected (NC, F32) GEMM"))
    executed = count(graph, found)
    assert op.name not in executed.int8_names
    assert executed.fp32["FULLY_CONNECTED"] == 1


@pytest.mark.parametrize(
    ("kernel", "agrees"),
    [
        ("Fully Connected (NC, QS8, QC8W) GEMM", {"static"}),
        ("Convolution (NHWC, QC8) IGEMM", {"static"}),
        ("Max Pooling (NHWC, S8)", {"static"}),
        ("Fully Connected (NC, PQS8, QC8W) GEMM", {"static"}),
        *((f"Fully Connected (NC, {kind}, F32, QC8W) GEMM", {"dynamic"}) for kind in AT_RUN_TIME),
        ("Convolution (NHWC, F32) DWConv", {"weight_only", "fp32"}),
        ("Add (ND)", {"static", "dynamic", "weight_only", "fp32"}),
    ],
)
def test_a_kernel_agrees_with_the_modes_that_its_data_types_allow(kernel, agrees):
    modes = ("static", "dynamic", "weight_only", "fp32")
    assert {mode for mode in modes if not contradicts(kernel, mode)} == agrees


def test_the_delegate_executes_what_leads_to_its_outputs():
    details = [
        {"index": 0, "op_name": "CONV_2D", "inputs": [0, 9], "outputs": [1]},
        {"index": 1, "op_name": "SOFTMAX", "inputs": [1], "outputs": [2]},
        {"index": 2, "op_name": "ADD", "inputs": [2, 1], "outputs": [3]},
        {"index": 3, "op_name": "DELEGATE", "inputs": [0, 9], "outputs": [1]},
        {"index": 4, "op_name": "DELEGATE", "inputs": [1, 2], "outputs": [3]},
    ]
    assert delegated_ops(details) == [[0], [2]]
