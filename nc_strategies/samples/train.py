"""Create the bundled sample: a Fashion-MNIST classifier as ONNX and Keras files, with its images.

This is the maintainers' script; users of the package need only the files that it writes. It trains a small
convolutional network, writes the same model as ``fashion_cnn.keras`` and ``fashion_cnn.onnx``, checks that both compute
the same probabilities, and writes the calibration images (random ones of the training split) and the evaluation images
(the first ones of the test split).

To run it (needs tensorflow, tf2onnx, onnx and onnxruntime; about eight minutes on two cores)::

    apt-get install dataset-fashion-mnist
    python train.py --data /usr/share/datasets/fashion-mnist

Training is seeded. Another processor or library version still rounds differently and yields a slightly different model.

The channel ranges of the sample are made uneven on purpose. After training, ``make_uneven`` multiplies the channels of
the BatchNorm before the depthwise convolution by log-normal factors and divides that convolution's kernels by the same
factors. ReLU passes positive factors through, so the fp32 model computes the same function up to rounding, but its
channel ranges become as uneven as those of many models in practice. This is the inverse of cross-layer equalization
(Nagel et al., 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction").

Data: Fashion-MNIST, https://github.com/zalandoresearch/fashion-mnist, Copyright (c) 2017 Zalando SE,
MIT (Expat) licence; see LICENSE-fashion-mnist.txt.
"""

from __future__ import annotations

import argparse
import gzip
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

SCALE, OFFSET = 1 / 127.5, -1.0
CALIBRATION_IMAGES, EVALUATION_IMAGES = 300, 3000
UNEVEN = {"widen_bn": ("depthwise", 1.25)}
"""BatchNorm layer to the only layer that reads it (after a ReLU), and the sigma of the log-normal factors."""


def load_split(folder: Path, split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read the images (n,28,28,1) and labels (n,) of a split, "train" or "t10k"."""
    with gzip.open(folder / f"{split}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    with gzip.open(folder / f"{split}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    return images, labels


def preprocess(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Map pixels from 0..255 to -1..1, the range of the model's input."""
    return np.asarray(images * np.float32(SCALE) + np.float32(OFFSET), np.float32)


def build_model() -> keras.Model:
    """Build the untrained network."""
    import keras
    from keras import layers

    def conv(
        x: keras.KerasTensor, channels: int, name: str, kernel: int = 3, strides: int = 1, relu: bool = True
    ) -> keras.KerasTensor:
        x = layers.Conv2D(channels, kernel, strides, padding="same", use_bias=False, name=name)(x)
        x = layers.BatchNormalization(momentum=0.95, name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if relu else x

    image = keras.Input((28, 28, 1), name="image")
    x = conv(image, 16, "stem", strides=2)
    x = conv(x, 48, "widen", kernel=1)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(momentum=0.95, name="depthwise_bn")(x)
    x = layers.ReLU(6.0, name="depthwise_relu6")(x)
    x = layers.MaxPooling2D(2, name="maxpool")(x)
    x = skip = conv(x, 176, "down")
    x = conv(x, 176, "res_a")
    x = conv(x, 176, "res_b", relu=False)
    x = layers.Add(name="res_add")([x, skip])
    x = layers.ReLU(name="res_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(10, name="logits")(x)
    return keras.Model(image, layers.Softmax(name="probabilities")(x), name="fashion_cnn")


def train_model(folder: Path, epochs: int, seed: int) -> keras.Model:
    """Train the network on the training split, with each image flipped horizontally in half of the epochs."""
    import keras

    keras.utils.set_random_seed(seed)
    pixels, labels = load_split(folder, "train")
    images, batch = preprocess(pixels), 128
    steps = epochs * -(-len(images) // batch)
    rate = keras.optimizers.schedules.CosineDecay(1e-4, steps - steps // 5, warmup_target=3e-3, warmup_steps=steps // 5)
    model = build_model()
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.01)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    turn = np.random.default_rng(seed).random(len(images)) < 0.5
    for epoch in range(epochs):
        flipped = (turn ^ (epoch % 2 == 1))[:, None, None, None]
        model.fit(np.where(flipped, images[:, :, ::-1], images), labels, batch_size=batch, verbose=2)
    return model


def make_uneven(model: keras.Model, seed: int) -> None:
    """Spread the channel ranges named in ``UNEVEN`` without changing the fp32 function."""
    rng = np.random.default_rng(seed)
    for norm_name, (reader_name, sigma) in UNEVEN.items():
        norm, kernel = model.get_layer(norm_name), model.get_layer(reader_name).kernel
        factors = rng.lognormal(0.0, sigma, norm.gamma.shape[0]).astype(np.float32)
        norm.gamma.assign(norm.gamma * factors)
        norm.beta.assign(norm.beta * factors)
        kernel.assign(kernel / factors[:, None])


def export_onnx(model: keras.Model, path: Path) -> None:
    """Write the model as ONNX (opset 17, free batch size). Convolutions have the names of the layers."""
    import onnx
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, 28, 28, 1), tf.float32, name="image")]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator, unused-ignore]
    def infer(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": model(image, training=False)}

    proto, _ = tf2onnx.convert.from_function(infer, signature, opset=17)
    convs = [node for node in proto.graph.node if node.op_type == "Conv"]
    names = [layer.name for layer in model.layers if type(layer).__name__.endswith("Conv2D")]
    for node, name in zip(convs, names, strict=True):
        node.name = name
    onnx.save(proto, path)


def write_model(model: keras.Model, folder: Path) -> None:
    """Write the model to both files, read them again, and check that they agree on the evaluation images."""
    import keras
    import onnxruntime as ort

    keras_path, onnx_path = folder / "fashion_cnn.keras", folder / "fashion_cnn.onnx"
    plain = keras.Model.from_config(model.get_config())  # without the optimizer's state, for a small file
    plain.set_weights(model.get_weights())
    plain.save(keras_path)
    plain = keras.models.load_model(keras_path, compile=False)
    export_onnx(plain, onnx_path)

    with np.load(folder / "fashion_evaluation.npz") as data:
        images, labels = preprocess(data["x"]), data["y"]
    session = ort.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    from_onnx = np.asarray(session.run(["probabilities"], {"image": images})[0])
    from_keras = np.asarray(plain.predict(images, verbose=0))
    difference = float(np.abs(from_onnx - from_keras).max())
    for path, output in ((onnx_path, from_onnx), (keras_path, from_keras)):
        size, accuracy = path.stat().st_size, float((output.argmax(1) == labels).mean())
        print(f"{path.name}: {size} bytes, accuracy {accuracy:.4f}")
        if size >= 3_000_000:
            raise SystemExit(f"{path.name} has {size} bytes, 3,000,000 or more")
    print(f"greatest difference of probabilities: {difference:.1e}")
    if difference > 1e-5:
        raise SystemExit(f"the ONNX and Keras files differ by {difference:.1e}")


def write_images(source: Path, folder: Path, seed: int) -> None:
    """Write the calibration and the evaluation images with their labels."""
    images, labels = load_split(source, "train")
    chosen = np.random.default_rng(seed).choice(len(images), CALIBRATION_IMAGES, replace=False)
    np.savez_compressed(folder / "fashion_calibration.npz", x=images[chosen], y=labels[chosen])
    images, labels = load_split(source, "t10k")
    first = slice(EVALUATION_IMAGES)
    np.savez_compressed(folder / "fashion_evaluation.npz", x=images[first], y=labels[first])


def main() -> None:
    """Parse the options and write all files of the sample."""
    parser = argparse.ArgumentParser(description="Create the Fashion-MNIST sample.")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # trains much faster on any x86 processor

    model = train_model(options.data, options.epochs, options.seed)
    make_uneven(model, options.seed)
    write_images(options.data, options.output, options.seed)
    write_model(model, options.output)


if __name__ == "__main__":
    main()
