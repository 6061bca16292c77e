"""A small language model with past keys and values, as exporters write one, for tests and benchmarks.

Inputs and outputs have the names of optimum's exports: ``input_ids``, ``attention_mask``, ``position_ids``,
``past_key_values.N.key`` and ``.value``; ``logits``, ``present.N.key`` and ``.value``. Weights are written to a file of
external data one by one, so that a model above 2 GB takes no memory of its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
FILE, WEIGHTS = "decoder.onnx", "decoder.onnx_data"
SMALL_BYTES = 1024
"""Size up to which a constant is kept in the model's file, as exporters do."""
EPSILON = 1e-5
"""Added to the mean square of a normalization."""
MASKED = -1e4
"""Score of a position that must not be attended to."""


@dataclass(frozen=True)
class DecoderSize:
    """Sizes of a decoder.

    Args:
        vocabulary: Number of tokens.
        width: Width of the residual stream.
        layers: Number of layers.
        heads: Attention heads; they divide the width.
        inner: Width of the feed-forward part.
        positions: Greatest number of positions.
    """

    vocabulary: int = 32
    width: int = 64
    layers: int = 2
    heads: int = 4
    inner: int = 128
    positions: int = 256

    @property
    def parameters(self) -> int:
        """Number of the weights, without normalizations."""
        layer = 4 * self.width**2 + 3 * self.width * self.inner
        return layer * self.layers + (2 * self.vocabulary + self.positions) * self.width


class _Writer:
    """Nodes and constants of a decoder; large constants are appended to a file."""

    def __init__(self, folder: Path, seed: int, given: Mapping[str, NDArray[np.float32]]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self._file = (folder / WEIGHTS).open("wb")
        self._rng = np.random.default_rng(seed)
        self._given = given

    def close(self) -> None:
        self._file.close()

    def op(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"/{name}", **attributes))
        return name

    def constant(self, name: str, values: NDArray[Any]) -> str:
        if values.nbytes <= SMALL_BYTES:
            self.constants.append(numpy_helper.from_array(values, name))
            return name
        tensor = TensorProto(name=name, dims=values.shape, data_location=TensorProto.EXTERNAL)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        for key, value in (("location", WEIGHTS), ("offset", self._file.tell()), ("length", values.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        np.ascontiguousarray(values).tofile(self._file)
        self.constants.append(tensor)
        return name

    def weight(self, name: str, rows: int, columns: int, scale: float) -> str:
        if name in self._given:
            return self.constant(name, self._given[name])
        return self.constant(name, self._rng.standard_normal((rows, columns), np.float32) * np.float32(scale))

    def normalized(self, source: str, stem: str, width: int) -> str:
        """A root-mean-square normalization in single steps, as exporters write it."""
        squares = self.op("Mul", source, source, name=f"{stem}/square")
        mean = self.op("ReduceMean", squares, name=f"{stem}/mean", axes=[-1], keepdims=1)
        above = self.op("Add", mean, self.constant(f"{stem}.epsilon", np.array(EPSILON, np.float32)), name=f"{stem}/a")
        root = self.op("Sqrt", above, name=f"{stem}/sqrt")
        scaled = self.op("Div", source, root, name=f"{stem}/div")
        return self.op("Mul", scaled, self.constant(f"{stem}.gain", np.ones(width, np.float32)), name=f"{stem}/mul")

    def product(self, source: str, weight: str, rows: int, columns: int, gain: float = 1.0) -> str:
        return self.op("MatMul", source, self.weight(weight, rows, columns, gain * rows**-0.5), name=f"{weight}/MatMul")


def write(
    folder: Path, size: DecoderSize, seed: int = 0, weights: Mapping[str, NDArray[np.float32]] | None = None
) -> Path:
    """Write a decoder of random weights, with its large weights as external data.

    Args:
        folder: Where ``decoder.onnx`` and its file of weights are written.
        size: Its sizes.
        seed: Seed of the weights.
        weights: Values of some of the weights by name, such as ``lm_head.weight`` of shape (width, vocabulary).

    Returns:
        The path of the model.
    """
    writer = _Writer(folder, seed, weights or {})
    try:
        outputs = _nodes(writer, size)
    finally:
        writer.close()
    head = size.width // size.heads
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"]),
        helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch", "sequence"]),
    ]
    shape = ["batch", size.heads, "past", head]
    for layer in range(size.layers):
        for part in ("key", "value"):
            name = f"past_key_values.{layer}.{part}"
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", size.vocabulary])
    presents = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size.heads, "total", head]) for name in outputs
    ]
    graph = helper.make_graph(writer.nodes, "decoder", inputs, [logits, *presents], writer.constants)
    opsets = [helper.make_opsetid("", OPSET)]
    path = folder / FILE
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString())
    return path


def _nodes(writer: _Writer, size: DecoderSize) -> list[str]:
    """Add all nodes; return the names of the present keys and values."""
    op, width = writer.op, size.width
    tokens = op("Gather", writer.weight("embed_tokens.weight", size.vocabulary, width, 1.0), "input_ids", name="tokens")
    places = op(
        "Gather", writer.weight("embed_positions.weight", size.positions, width, 0.1), "position_ids", name="places"
    )
    stream = op("Add", tokens, places, name="embedded")
    mask = _mask(writer)
    outputs: list[str] = []
    for layer in range(size.layers):
        stem = f"layers.{layer}"
        read = writer.normalized(stream, f"{stem}.input_norm", width)
        attended = _attention(writer, read, mask, layer, size)
        outputs += [f"present.{layer}.{part}" for part in ("key", "value")]
        stream = op("Add", stream, attended, name=f"{stem}/residual")
        read = writer.normalized(stream, f"{stem}.post_norm", width)
        gate = writer.product(read, f"{stem}.mlp.gate_proj.weight", width, size.inner)
        silu = op("Mul", gate, op("Sigmoid", gate, name=f"{stem}/sigmoid"), name=f"{stem}/silu")
        up = writer.product(read, f"{stem}.mlp.up_proj.weight", width, size.inner)
        inner = op("Mul", silu, up, name=f"{stem}/gated")
        down = writer.product(inner, f"{stem}.mlp.down_proj.weight", size.inner, width, 0.5)
        stream = op("Add", stream, down, name=f"{stem}/output")
    read = writer.normalized(stream, "final_norm", width)
    op("MatMul", read, writer.weight("lm_head.weight", width, size.vocabulary, width**-0.5), name="logits")
    return outputs


def _mask(writer: _Writer) -> str:
    """What is added to the scores, shape (batch, 1, sequence, total): 0 where a query may attend to a key."""
    op, constant = writer.op, writer.constant
    zero, one = constant("zero", np.array(0)), constant("step", np.array(1))
    second = constant("axis_1", np.array([1], np.int64))
    inner = constant("axes_1_2", np.array([1, 2], np.int64))
    total = op("Gather", op("Shape", "attention_mask", name="mask_shape"), one, name="total_length", axis=0)
    length = op("Gather", op("Shape", "input_ids", name="ids_shape"), one, name="sequence_length", axis=0)
    past = op("Sub", total, length, name="past_length")
    keys = op("Range", zero, total, one, name="key_places")
    queries = op("Range", past, total, one, name="query_places")
    column = op("Unsqueeze", queries, second, name="query_column")
    causal = op("LessOrEqual", keys, column, name="causal")
    given = op("Cast", "attention_mask", name="given", to=TensorProto.BOOL)
    both = op("And", op("Unsqueeze", given, inner, name="given_4d"), causal, name="allowed")
    open_, shut = constant("open", np.array(0, np.float32)), constant("shut", np.array(MASKED, np.float32))
    return op("Where", both, open_, shut, name="mask")


def _attention(writer: _Writer, read: str, mask: str, layer: int, size: DecoderSize) -> str:
    op, constant, width, head = writer.op, writer.constant, size.width, size.width // size.heads
    stem = f"layers.{layer}.self_attn"
    split = constant(f"{stem}.split", np.array([0, 0, size.heads, head], np.int64))
    joined = constant(f"{stem}.joined", np.array([0, 0, width], np.int64))

    def heads(kind: str) -> str:
        product = writer.product(read, f"{stem}.{kind}_proj.weight", width, width)
        shaped = op("Reshape", product, split, name=f"{stem}/{kind}_heads")
        return op("Transpose", shaped, name=f"{stem}/{kind}", perm=[0, 2, 1, 3])

    query, key, value = heads("q"), heads("k"), heads("v")
    every = {
        part: op("Concat", f"past_key_values.{layer}.{part}", new, name=f"present.{layer}.{part}", axis=2)
        for part, new in (("key", key), ("value", value))
    }
    turned = op("Transpose", every["key"], name=f"{stem}/key_t", perm=[0, 1, 3, 2])
    scale = constant(f"{stem}.scale", np.array(head**-0.5, np.float32))
    scores = op("Mul", op("MatMul", query, turned, name=f"{stem}/scores"), scale, name=f"{stem}/scaled")
    weights = op("Softmax", op("Add", scores, mask, name=f"{stem}/masked"), name=f"{stem}/weights", axis=-1)
    mixed = op("MatMul", weights, every["value"], name=f"{stem}/mixed")
    rows = op("Transpose", mixed, name=f"{stem}/rows", perm=[0, 2, 1, 3])
    merged = op("Reshape", rows, joined, name=f"{stem}/merged")
    return writer.product(merged, f"{stem}.o_proj.weight", width, width, 0.5)


def prompt(tokens: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """The inputs of whole sequences, without past.

    Args:
        tokens: Shape (sequences, length).
    """
    return {
        "input_ids": tokens,
        "attention_mask": np.ones_like(tokens),
        "position_ids": np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape).astype(np.int64),
    }


def markov_text(vocabulary: int, sequences: int, length: int, seed: int = 0) -> NDArray[np.int64]:
    """Sequences of a Markov chain in which three tokens may follow each token, shape (sequences, length).

    The chain is the same for every seed; the perplexity of its true probabilities is below 3.
    """
    chain, rng = np.random.default_rng(17), np.random.default_rng(seed)
    followers = np.stack([chain.permutation(vocabulary)[:3] for _ in range(vocabulary)])
    text = np.empty((sequences, length), np.int64)
    text[:, 0] = rng.integers(0, vocabulary, sequences)
    for place in range(1, length):
        chosen = rng.choice(3, sequences, p=[0.7, 0.2, 0.1])
        text[:, place] = followers[text[:, place - 1], chosen]
    return text


def write_trained(folder: Path, size: DecoderSize | None = None, seed: int = 0, steps: int = 300) -> Path:
    """Write a decoder that predicts `markov_text`: its last product is fitted, all other weights are random.

    The last product is a softmax regression on what the layers compute, fitted by gradient descent with momentum.

    Args:
        folder: As in `write`.
        size: Its sizes.
        seed: Seed of the weights and of the text.
        steps: Steps of the descent.

    Returns:
        The path of the model.
    """
    size = size or DecoderSize()
    text = markov_text(size.vocabulary, 64, 32, seed + 1)
    path = write(folder, size, seed)
    features = _features(path, size, text[:, :-1])
    head = _softmax_regression(features, text[:, 1:].reshape(-1), size.vocabulary, steps)
    return write(folder, size, seed, {"lm_head.weight": head})


def _features(path: Path, size: DecoderSize, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """What the last product reads, shape (tokens, width)."""
    model = onnx.load(str(path))
    source = next(node.input[0] for node in model.graph.node if node.output[0] == "logits")
    model.graph.output.append(helper.make_tensor_value_info(source, TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (features,) = session.run([source], {**prompt(tokens), **empty_past(size, len(tokens))})
    return np.asarray(features, np.float32).reshape(-1, size.width)


def empty_past(size: DecoderSize, batch: int) -> dict[str, NDArray[np.float32]]:
    """Past keys and values of no position."""
    none = np.zeros((batch, size.heads, 0, size.width // size.heads), np.float32)
    return {f"past_key_values.{layer}.{part}": none for layer in range(size.layers) for part in ("key", "value")}


def _softmax_regression(
    features: NDArray[np.float32], labels: NDArray[np.int64], classes: int, steps: int
) -> NDArray[np.float32]:
    """Weights of shape (width, classes) that predict labels of features."""
    weights = np.zeros((features.shape[1], classes), np.float32)
    speed = np.zeros_like(weights)
    wanted = np.eye(classes, dtype=np.float32)[labels]
    rate = np.float32(4.0 / np.square(features).mean() / features.shape[1])
    for _ in range(steps):
        slope = features.T @ (_softmax(features @ weights) - wanted) / np.float32(len(features))
        speed = np.asarray(np.float32(0.9) * speed - rate * slope, np.float32)
        weights += speed
    return weights


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True), np.float32)
