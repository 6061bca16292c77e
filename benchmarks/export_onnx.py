"""Export a Keras model to ONNX with a dynamic batch size, and check its outputs against the original.

usage: python benchmarks/export_onnx.py model.keras model.onnx
"""

from __future__ import annotations

import argparse
import os

import numpy as np

OPSET = 17
TOLERANCE = 1e-4


def main() -> None:
    """Export the model, then compare the outputs on random inputs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("keras_file")
    parser.add_argument("onnx_file")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import onnxruntime as ort
    import tensorflow as tf
    import tf2onnx

    model = keras.models.load_model(arguments.keras_file, compile=False)
    signature = [
        tf.TensorSpec(i.shape, i.dtype, name=f"input_{n}" if n else "input") for n, i in enumerate(model.inputs)
    ]
    call = tf.function(lambda *x: model(x[0] if len(x) == 1 else list(x), training=False), input_signature=signature)
    tf2onnx.convert.from_function(call, signature, opset=OPSET, output_path=arguments.onnx_file)
    session = ort.InferenceSession(arguments.onnx_file, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=[d or 4 for d in i.shape]).astype(np.float32) for i in model.inputs]
    got = session.run(None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)})[0]
    want = np.asarray(call(*(tf.constant(x) for x in inputs)))
    difference = float(np.abs(got - want).max())
    if difference > TOLERANCE:
        raise SystemExit(f"the exported model differs from the original by {difference:.2g}")
    print(f"{arguments.onnx_file}: outputs differ by at most {difference:.1g}")


if __name__ == "__main__":
    main()
