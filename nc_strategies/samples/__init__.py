"""The bundled sample: a Fashion-MNIST classifier as ONNX and Keras files, with images to tune it on.

``README.md`` in this folder describes the files; ``train.py`` creates them.
"""

from __future__ import annotations

from pathlib import Path

SCALE = 1 / 127.5
"""The models' input is ``pixel * SCALE + OFFSET``, with pixels from 0 to 255."""
OFFSET = -1.0

_FOLDER = Path(__file__).parent


def onnx_model() -> Path:
    """Return the path of the classifier as an ONNX file."""
    return _FOLDER / "fashion_cnn.onnx"


def keras_model() -> Path:
    """Return the path of the same classifier as a Keras file."""
    return _FOLDER / "fashion_cnn.keras"


def calibration_images() -> Path:
    """Return the path of the 300 calibration images and labels (arrays x and y of an npz file)."""
    return _FOLDER / "fashion_calibration.npz"


def evaluation_images() -> Path:
    """Return the path of the 3000 evaluation images and labels (arrays x and y of an npz file)."""
    return _FOLDER / "fashion_evaluation.npz"
