"""Create the bundled text sample: a language identifier as ONNX and Keras files, with its tokenizer and texts.

This is the maintainers' script; users of the package need only the files that it writes. It reads the messages that
Django shows to users, in 24 languages; trains a byte-pair tokenizer and a small transformer encoder that tells the
language of a message; and writes the model as ``text_encoder.onnx`` and ``text_encoder.keras``. No message is in two
of the three splits, in any language: the split is by the English original.

To run it (needs tensorflow, onnx, onnxruntime and tokenizers; about six minutes on two cores)::

    pip download --no-deps Django==5.2.* && unzip -d django Django-*.whl
    python train_text.py --data django

Training is seeded. Another processor or library version still rounds differently and yields a slightly different model.

Some channels of the sample have large values on purpose, as in most published transformers, where a few channels behind
LayerNorm gains are many times larger than the others (Dettmers et al., 2022, "LLM.int8()"; Bondarenko et al., 2021,
"Understanding and Overcoming the Challenges of Efficient Transformer Quantization"). A model of this size does not grow
them by itself. The gains of ``OUTLIERS.channels`` channels of each LayerNorm before a product therefore start at
``OUTLIERS.gain``, and the rows of the products that read them start smaller by the same factor, so that the untrained
network computes the same function; training then changes both. In these channels, the embeddings of a share of the
tokens start larger, so that the values depend on the text: a range that covers all texts is too wide for most of them.

Data: message catalogues of Django, https://www.djangoproject.com, Copyright (c) Django Software Foundation and
individual contributors, BSD-3-Clause licence; see LICENSE-django.txt.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import keras
    import onnx

LANGUAGES = (
    "af", "az", "ca", "cs", "da", "de", "es", "et", "fi", "fr", "gl", "hr",
    "id", "it", "ms", "nb", "nl", "pl", "pt", "ro", "sk", "sl", "sv", "tr",
)  # fmt: skip
"""Languages in Latin script, many of them close to each other; their order numbers the classes."""
EVALUATION_TEXTS, CALIBRATION_TEXTS = 2000, 200
SHORTEST = 16
"""Characters below which a message, such as a month's name, does not tell its language."""


@dataclass(frozen=True)
class Shape:
    """Sizes of the network.

    Args:
        layers: Number of encoder layers.
        width: Channels of a token.
        heads: Number of attention heads.
        inner: Channels of the feed-forward network.
        tokens: Size of the vocabulary.
        length: Most tokens of a text.
    """

    layers: int = 2
    width: int = 128
    heads: int = 4
    inner: int = 512
    tokens: int = 1024
    length: int = 64


@dataclass(frozen=True)
class Outliers:
    """Channels of large values, see the module's docstring.

    Args:
        channels: Number of such channels behind each LayerNorm.
        gain: Their gain before training; published encoders have 10 to 60.
        share: Share of the tokens whose embedding is larger in these channels.
        factor: How many times larger it is.
    """

    channels: int = 2
    gain: float = 32.0
    share: float = 0.01
    factor: float = 24.0


SHAPE, OUTLIERS = Shape(), Outliers()
SPLIT_SHARE = 0.1
"""Share of the tokenizer's merges that are left out in training (Provilkov et al., 2020, "BPE-Dropout")."""
MASKED = -10_000.0
"""Added to the attention scores of padding, as exporters of transformers write it."""
EPSILON = 1e-6


def catalogue(path: Path) -> dict[str, str]:
    """Messages of a compiled catalogue: the English original to its translation, the singular of plural forms."""
    content = path.read_bytes()
    order = "<" if content[:4] == struct.pack("<I", 0x950412DE) else ">"
    count, originals, translations = struct.unpack(f"{order}3I", content[8:20])

    def string(table: int, place: int) -> str:
        size, start = struct.unpack_from(f"{order}2I", content, table + 8 * place)
        return content[start : start + size].split(b"\0")[0].decode("utf-8")

    return {string(originals, i): string(translations, i) for i in range(count)}


def messages(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Triples (English original, language, message) of all catalogues, in one order on every machine."""
    for language in LANGUAGES:
        for path in sorted(folder.rglob(f"locale/{language}/LC_MESSAGES/*.mo")):
            for original, message in sorted(catalogue(path).items()):
                text = re.sub(r"\s+", " ", message).strip()
                if original and len(text) >= SHORTEST and text != original:
                    yield original, language, text


def split(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Pairs (text, language) of the splits training, calibration and evaluation."""
    parts: dict[str, list[tuple[str, str]]] = {"training": [], "calibration": [], "evaluation": []}
    for original, language, text in messages(folder):
        bucket = zlib.crc32(original.encode()) % 100
        name = "evaluation" if bucket < 22 else "calibration" if bucket < 26 else "training"
        parts[name].append((text, language))
    seen = {text.lower() for text, _ in parts["training"]}  # the tokenizer does not tell capital letters
    rng = np.random.default_rng(0)
    for name, count in (("calibration", CALIBRATION_TEXTS), ("evaluation", EVALUATION_TEXTS)):
        unseen = sorted({pair for pair in parts[name] if pair[0].lower() not in seen})
        if len(unseen) < count:
            raise SystemExit(f"the catalogues hold {len(unseen)} texts for {name}, {count} are needed")
        parts[name] = [unseen[i] for i in rng.permutation(len(unseen))[:count]]
        seen |= {text.lower() for text, _ in parts[name]}
    return parts


def train_tokenizer(texts: list[str]) -> Any:
    """A byte-pair tokenizer of ``SHAPE.tokens`` tokens that frames a text in ``[CLS]`` and ``[SEP]``."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE.tokens, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    special = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special)
    tokenizer.enable_truncation(SHAPE.length)
    return tokenizer


def encode(tokenizer: Any, texts: list[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token numbers and mask, both (n, SHAPE.length)."""
    ids = np.zeros((len(texts), SHAPE.length), np.int64)
    for row, encoding in zip(ids, tokenizer.encode_batch(texts), strict=True):
        row[: len(encoding.ids)] = encoding.ids
    return ids, np.asarray(ids != 0, np.int64)


def build_model(dropout: float = 0.0) -> keras.Model:
    """Build the untrained network: a transformer encoder with LayerNorm before attention and feed-forward."""
    import keras
    from keras import layers, ops

    ids = keras.Input((None,), dtype="int32", name="input_ids")
    mask = keras.Input((None,), dtype="int32", name="attention_mask")
    places = ops.cumsum(ops.ones_like(ids), axis=1) - 1
    x = layers.Embedding(SHAPE.tokens, SHAPE.width, name="tokens")(ids)
    x = x + layers.Embedding(SHAPE.length, SHAPE.width, name="places")(places)
    allowed = ops.expand_dims(mask, 1)
    for number in range(SHAPE.layers):
        name = f"layer{number}"
        y = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_norm1")(x)
        y = layers.MultiHeadAttention(SHAPE.heads, SHAPE.width // SHAPE.heads, name=f"{name}_attention")(
            y, y, attention_mask=allowed
        )
        x = x + layers.Dropout(dropout)(y)
        y = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_norm2")(x)
        y = layers.Dense(SHAPE.inner, activation="gelu", name=f"{name}_up")(y)
        y = layers.Dense(SHAPE.width, name=f"{name}_down")(y)
        x = x + layers.Dropout(dropout)(y)
    x = layers.LayerNormalization(epsilon=EPSILON, name="norm")(x)
    logits = layers.Dense(len(LANGUAGES), name="logits")(x[:, 0])
    return keras.Model([ids, mask], logits, name="text_encoder")


def plant_outliers(model: keras.Model, seed: int) -> None:
    """Start some channels with large gains, and the products that read them with small rows; see the docstring."""
    import keras

    rng = np.random.default_rng(seed)
    channels = rng.choice(SHAPE.width, OUTLIERS.channels, replace=False)
    table = model.get_layer("tokens").embeddings
    values = np.asarray(keras.ops.convert_to_numpy(table)).copy()
    for channel in channels:
        chosen = rng.random(SHAPE.tokens) < OUTLIERS.share
        values[chosen, channel] *= OUTLIERS.factor
    table.assign(values)
    for number in range(SHAPE.layers):
        attention = model.get_layer(f"layer{number}_attention")
        projections = (attention.query_dense, attention.key_dense, attention.value_dense)
        up = model.get_layer(f"layer{number}_up")
        for norm, readers in (("norm1", projections), ("norm2", (up,))):
            factors = np.ones(SHAPE.width, np.float32)
            factors[channels] = OUTLIERS.gain
            gamma = model.get_layer(f"layer{number}_{norm}").gamma
            gamma.assign(keras.ops.convert_to_numpy(gamma) * factors)
            for reader in readers:
                kernel = keras.ops.convert_to_numpy(reader.kernel)
                reader.kernel.assign(kernel / factors.reshape(-1, *[1] * (kernel.ndim - 1)))


def train_model(parts: dict[str, list[tuple[str, str]]], tokenizer: Any, epochs: int, seed: int) -> keras.Model:
    """Train the network on parts of messages, split into tokens in a different way in each epoch (BPE-dropout)."""
    import keras

    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    labels = np.array([LANGUAGES.index(language) for _, language in parts["training"]])
    model, batch = build_model(dropout=0.1), 64
    plant_outliers(model, seed)
    steps = epochs * -(-len(labels) // batch)
    rate = keras.optimizers.schedules.CosineDecay(
        1e-5, steps - steps // 10, warmup_target=1e-3, warmup_steps=steps // 10
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), loss, metrics=["accuracy"], jit_compile=False)
    tokenizer.model.dropout = SPLIT_SHARE
    for _ in range(epochs):
        texts = [_part(text, rng) for text, _ in parts["training"]]
        model.fit(list(encode(tokenizer, texts)), labels, batch_size=batch, verbose=2)
    tokenizer.model.dropout = None
    return model


def _part(text: str, rng: np.random.Generator) -> str:
    """A text, or half of the time a part of its words."""
    words = text.split(" ")
    if len(words) < 4 or rng.random() < 0.5:
        return text
    size = int(rng.integers(3, len(words)))
    start = int(rng.integers(0, len(words) - size + 1))
    return " ".join(words[start : start + size])


class _Graph:
    """Nodes and initializers of an ONNX graph, written one after the other."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.values: dict[str, npt.NDArray[Any]] = {}

    def add(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def value(self, name: str, array: Any, dtype: Any = np.float32) -> str:
        self.values[name] = np.asarray(array, dtype)
        return name

    def linear(self, name: str, x: str, kernel: Any, bias: Any) -> str:
        """A dense layer on the last axis, as exporters write it: a product with a bias added to it."""
        product = self.add("MatMul", f"{name}/MatMul", x, self.value(f"{name}.weight", kernel))
        return self.add("Add", f"{name}/Add", product, self.value(f"{name}.bias", bias))

    def norm(self, name: str, x: str, layer: keras.Layer) -> str:
        weight, bias = self.value(f"{name}.weight", layer.gamma), self.value(f"{name}.bias", layer.beta)
        return self.add("LayerNormalization", f"{name}/Norm", x, weight, bias, axis=-1, epsilon=EPSILON)

    def gelu(self, name: str, x: str) -> str:
        """The exact GELU in its five operators."""
        half = self.add("Div", f"{name}/Div", x, self.value("sqrt2", np.sqrt(2)))
        erf = self.add("Erf", f"{name}/Erf", half)
        shifted = self.add("Add", f"{name}/Shift", erf, self.value("one", 1))
        doubled = self.add("Mul", f"{name}/Mul", x, shifted)
        return self.add("Mul", f"{name}/Half", doubled, self.value("half", 0.5))

    def attention(self, name: str, x: str, bias: str, layer: keras.Layer) -> str:
        """Self-attention with softmax over the scores of all heads."""
        depth, heads = SHAPE.width // SHAPE.heads, SHAPE.heads
        shape = self.value("split", [0, 0, heads, depth], np.int64)
        parts = {}
        for part, turn in (("query", (0, 2, 1, 3)), ("key", (0, 2, 3, 1)), ("value", (0, 2, 1, 3))):
            dense = getattr(layer, f"{part}_dense")
            kernel, offset = np.reshape(dense.kernel, (SHAPE.width, -1)), np.reshape(dense.bias, -1)
            y = self.linear(f"{name}.{part}", x, kernel, offset)
            y = self.add("Reshape", f"{name}.{part}/Split", y, shape)
            parts[part] = self.add("Transpose", f"{name}.{part}/Turn", y, perm=turn)
        scores = self.add("MatMul", f"{name}/Scores", parts["query"], parts["key"])
        scaled = self.add("Div", f"{name}/Scale", scores, self.value("root", np.sqrt(depth)))
        masked = self.add("Add", f"{name}/Mask", scaled, bias)
        weights = self.add("Softmax", f"{name}/Softmax", masked, axis=-1)
        y = self.add("MatMul", f"{name}/Context", weights, parts["value"])
        y = self.add("Transpose", f"{name}/Turn", y, perm=(0, 2, 1, 3))
        y = self.add("Reshape", f"{name}/Join", y, self.value("join", [0, 0, SHAPE.width], np.int64))
        output = layer.output_dense
        return self.linear(f"{name}.output", y, np.reshape(output.kernel, (-1, SHAPE.width)), output.bias)


def onnx_model(model: keras.Model) -> onnx.ModelProto:
    """The model as ONNX: opset 17, free batch size and length, written as exporters of transformers write it."""
    from onnx import TensorProto, helper, numpy_helper

    g = _Graph()
    x = g.add("Gather", "tokens/Gather", g.value("tokens.weight", model.get_layer("tokens").embeddings), "input_ids")
    size = g.add("Shape", "places/Shape", "input_ids", start=1, end=2)
    table = g.value("places.weight", model.get_layer("places").embeddings)
    places = g.add("Slice", "places/Slice", table, g.value("zero", [0], np.int64), size)
    x = g.add("Add", "embeddings/Add", x, places)
    mask = g.add("Cast", "mask/Cast", "attention_mask", to=TensorProto.FLOAT)
    mask = g.add("Unsqueeze", "mask/Unsqueeze", mask, g.value("axes", [1, 2], np.int64))
    mask = g.add("Sub", "mask/Sub", g.value("one", 1), mask)
    bias = g.add("Mul", "mask/Mul", mask, g.value("masked", MASKED))
    for number in range(SHAPE.layers):
        name = f"layer{number}"
        y = g.norm(f"{name}.norm1", x, model.get_layer(f"{name}_norm1"))
        y = g.attention(f"{name}.attention", y, bias, model.get_layer(f"{name}_attention"))
        x = g.add("Add", f"{name}/Add1", x, y)
        y = g.norm(f"{name}.norm2", x, model.get_layer(f"{name}_norm2"))
        up, down = model.get_layer(f"{name}_up"), model.get_layer(f"{name}_down")
        y = g.gelu(f"{name}.gelu", g.linear(f"{name}.up", y, up.kernel, up.bias))
        x = g.add("Add", f"{name}/Add2", x, g.linear(f"{name}.down", y, down.kernel, down.bias))
    x = g.norm("norm", x, model.get_layer("norm"))
    first = g.add("Gather", "pool/Gather", x, g.value("first", 0, np.int64), axis=1)
    head = model.get_layer("logits")
    weights = g.value("logits.weight", head.kernel), g.value("logits.bias", head.bias)
    g.add("Gemm", "logits", first, *weights)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LANGUAGES)])
    tensors = [numpy_helper.from_array(array, name) for name, array in g.values.items()]
    graph = helper.make_graph(g.nodes, "text_encoder", inputs, [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_model(model: keras.Model, tokenizer: Any, evaluation: list[tuple[str, str]], folder: Path) -> None:
    """Write the model to both files, read them again, and check that they agree on the evaluation texts."""
    import keras
    import onnx
    import onnxruntime as ort

    keras_path, onnx_path = folder / "text_encoder.keras", folder / "text_encoder.onnx"
    plain = build_model()  # without the optimizer's state, for a small file
    plain.set_weights(model.get_weights())
    plain.save(keras_path)
    plain = keras.models.load_model(keras_path, compile=False)
    proto = onnx_model(plain)
    onnx.checker.check_model(proto)
    onnx.save(proto, onnx_path)

    ids, mask = encode(tokenizer, [text for text, _ in evaluation])
    labels = np.array([LANGUAGES.index(language) for _, language in evaluation])
    session = ort.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    from_onnx = np.asarray(session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0])
    from_keras = np.asarray(plain.predict([ids, mask], verbose=0))
    difference = float(np.abs(from_onnx - from_keras).max())
    for path, output in ((onnx_path, from_onnx), (keras_path, from_keras)):
        print(f"{path.name}: {path.stat().st_size} bytes, accuracy {float((output.argmax(1) == labels).mean()):.4f}")
    print(f"greatest difference of logits: {difference:.1e}")
    if difference > 1e-3:
        raise SystemExit(f"the ONNX and Keras files differ by {difference:.1e}")


def write_texts(parts: dict[str, list[tuple[str, str]]], folder: Path) -> None:
    """Write the calibration and the evaluation texts with their labels."""
    for name in ("calibration", "evaluation"):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["text", "label"])
            writer.writerows(parts[name])


def main() -> None:
    """Parse the options and write all files of the sample."""
    parser = argparse.ArgumentParser(description="Create the text sample.")
    parser.add_argument("--data", type=Path, required=True, help="folder of an unpacked Django package")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "text")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # trains much faster on any x86 processor

    options.output.mkdir(exist_ok=True, parents=True)
    parts = split(options.data)
    print({name: len(pairs) for name, pairs in parts.items()})
    tokenizer = train_tokenizer([text for text, _ in parts["training"]])
    tokenizer.save(str(options.output / "tokenizer.json"), pretty=False)
    labels = {str(number): language for number, language in enumerate(LANGUAGES)}
    config = {"model_type": "text_encoder", "max_position_embeddings": SHAPE.length, "id2label": labels}
    (options.output / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    write_texts(parts, options.output)
    model = train_model(parts, tokenizer, options.epochs, options.seed)
    write_model(model, tokenizer, parts["evaluation"], options.output)


if __name__ == "__main__":
    main()
