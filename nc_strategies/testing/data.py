"""Test suite for data loaders."""

from __future__ import annotations

from typing import Any

import numpy as np

from nc_strategies.data.dataset import Dataset, Raw
from nc_strategies.data.ragged import Ragged
from nc_strategies.data.settings import Preprocess
from nc_strategies.models.info import ModelInfo, TensorSpec


class DataSuite:
    """Tests that every data loader must pass: inherit, and implement `make`. Every test loads the data again.

    ``calibration_samples`` is the number of calibration samples in the loader's settings. With ``apart``, the default,
    no sample may be in both the calibration and the evaluation data; this requires that all samples differ.
    """

    calibration_samples: int
    apart = True

    def make(self) -> Any:
        """A new loader: an object with a method ``load``."""
        raise AssertionError("a DataSuite must implement make()")

    def load(self) -> tuple[Raw, Raw]:
        """Evaluation and calibration samples."""
        evaluation, calibration = self.make().load()
        return evaluation, calibration

    def info(self, raw: Raw) -> ModelInfo:
        """Inputs of a model that accepts the samples without preprocessing."""
        shapes = {
            name: tuple(None if size < 0 else size for size in samples.shape[1:])
            for name, samples in raw.inputs.items()
        }
        specs = (TensorSpec(name, (None, *shapes[name]), samples.dtype) for name, samples in raw.inputs.items())
        return ModelInfo(tuple(specs), ())

    def test_it_gives_labelled_samples_and_some_to_calibrate_with(self) -> None:
        evaluation, calibration = self.load()
        assert isinstance(evaluation, Raw)
        assert isinstance(calibration, Raw)
        assert evaluation.labels is not None
        assert len(evaluation.labels) == len(evaluation) > 0
        assert len(calibration) == self.calibration_samples

    def test_calibration_samples_have_the_form_of_the_others(self) -> None:
        evaluation, calibration = self.load()
        forms = [
            {name: (array.shape[1:], array.dtype) for name, array in raw.inputs.items()}
            for raw in (evaluation, calibration)
        ]
        assert forms[0] == forms[1]

    def test_no_sample_is_used_both_to_calibrate_and_to_evaluate(self) -> None:
        evaluation, calibration = self.load()
        name = next(iter(evaluation.inputs))
        seen = {np.ascontiguousarray(sample).tobytes() for sample in calibration.inputs[name]}
        both = [sample for sample in evaluation.inputs[name] if np.ascontiguousarray(sample).tobytes() in seen]
        assert not both or not self.apart

    def test_loading_again_gives_the_same(self) -> None:
        first, second = self.load(), self.load()
        assert [raw.sha256() for raw in first] == [raw.sha256() for raw in second]

    def test_its_samples_can_be_batched_for_a_model(self) -> None:
        evaluation, _ = self.load()
        data = Dataset(evaluation, Preprocess(), self.info(evaluation))
        batches = list(data.batches(7))
        assert sum(count for _, _, count in batches) == len(evaluation)
        for name, array in evaluation.inputs.items():
            if isinstance(array, Ragged):
                own = [array for batch, _, _ in batches for array in batch[name]]
                assert all(one.tobytes() == other.tobytes() for one, other in zip(own, array, strict=True))
                continue
            np.testing.assert_array_equal(np.concatenate([batch[name] for batch, _, _ in batches]), array)

    def test_its_errors_name_a_key_of_the_configuration(self) -> None:
        assert all(raw.key.startswith("data.") for raw in self.load())
