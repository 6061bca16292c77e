"""A loaded SavedModel that can be called with arrays, as a Keras model can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nc_strategies.backends.tensorflow.import_tensorflow import tensorflow


class CallableModel:
    """The object that ``tf.saved_model.load`` returns, with a call and a ``predict`` as Keras has them.

    Args:
        path: The SavedModel; it is not needed any more once it is loaded.
        signature: Name of the signature.
        inputs: Names of its inputs in the model's order.
        outputs: Names of its outputs in the model's order.
    """

    def __init__(self, path: Path, signature: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.saved_model = tensorflow().saved_model.load(str(path))
        self._call = self.saved_model.signatures[signature]
        self._specs = self._call.structured_input_signature[1]
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)

    def __call__(self, inputs: Any, training: bool = False) -> Any:
        """Run one batch.

        Args:
            inputs: An array or tensor; for several inputs, a list in the model's order or a mapping by name.
            training: Ignored; accepted for compatibility with Keras. The graph is for inference only.

        Returns:
            The output as a tensor; several outputs as a list in the model's order.
        """
        tf = tensorflow()
        if not isinstance(inputs, Mapping):
            parts = inputs if isinstance(inputs, (list, tuple)) and len(self._inputs) > 1 else [inputs]
            inputs = dict(zip(self._inputs, parts, strict=True))
        feed = {name: tf.cast(inputs[name], spec.dtype) for name, spec in self._specs.items()}
        by_name = self._call(**feed)
        outputs = [by_name[name] for name in self._outputs]
        return outputs[0] if len(outputs) == 1 else outputs

    def predict(self, inputs: Any, batch_size: int = 32, verbose: Any = 0) -> Any:
        """Run all samples in batches and return the outputs as arrays.

        Args:
            inputs: As for a call.
            batch_size: Samples per batch.
            verbose: Ignored; accepted for compatibility with Keras.
        """
        flat = tensorflow().nest.flatten(inputs)
        parts = []
        for start in range(0, len(flat[0]), batch_size):
            piece = [part[start : start + batch_size] for part in flat]
            packed = tensorflow().nest.pack_sequence_as(inputs, piece)
            outputs = self(packed)
            parts.append([np.asarray(o) for o in (outputs if isinstance(outputs, list) else [outputs])])
        joined = [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
        return joined[0] if len(joined) == 1 else joined

    def __getattr__(self, name: str) -> Any:
        if name == "saved_model":
            raise AttributeError(name)
        return getattr(self.saved_model, name)
