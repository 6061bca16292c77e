"""Test suite for backends, on the bundled model or another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from nc_strategies.backends.base import Backend
from nc_strategies.models import ModelSource
from nc_strategies.models.info import Batch
from nc_strategies.space import FLOAT, Config, Space


class BackendSuite:
    """Tests that every backend must pass: inherit, and implement `make`, `source` and `batches`.

    Every test uses the real engine. ``expected_int8`` is the least number of operators that the default
    configuration must execute in int8; ``random_configs`` is the number of random configurations that are built.
    """

    expected_int8 = 1
    random_configs = 5
    _ready: ClassVar[object] = None

    def make(self) -> Backend:
        """A new backend."""
        raise AssertionError("a BackendSuite must implement make()")

    def source(self) -> ModelSource:
        """The model under test."""
        raise AssertionError("a BackendSuite must implement source()")

    def batches(self) -> list[Batch]:
        """Calibration batches of the model's inputs."""
        raise AssertionError("a BackendSuite must implement batches()")

    def ready(self) -> tuple[Backend, Space]:
        """A loaded and calibrated backend and its space, created once per class."""
        ready = vars(type(self)).get("_ready")
        if ready is None:
            backend = self.make()
            backend.load(self.source())
            backend.capabilities()
            backend.calibrate(self.batches())
            space = Space(backend.capabilities())
            ready = backend, space
            type(self)._ready = ready
        return cast(tuple[Backend, Space], ready)

    def test_all_float_computes_what_the_model_as_given_computes(self) -> None:
        backend, space = self.ready()
        batch = self.batches()[0]
        for a, b in zip(
            backend.reference().predict(batch), backend.build(space.all_float()).predict(batch), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=1e-4)

    def test_all_float_executes_nothing_in_int8(self) -> None:
        backend, space = self.ready()
        assert backend.build(space.all_float()).executed().int8_count == 0

    def test_the_default_executes_in_int8_what_it_asks_for(self) -> None:
        backend, space = self.ready()
        config = space.default()
        executed = backend.build(config).executed()
        assert executed.int8_count >= self.expected_int8
        assert set(config.int8_ops) <= executed.int8_names

    def test_every_scheme_offered_executes(self) -> None:
        backend, space = self.ready()
        longest = max(len(op.schemes) for op in space.ops.values())
        for index in range(longest):
            chosen = {name: op.schemes[index] for name, op in space.ops.items() if index < len(op.schemes)}
            allowed = {n: s for n, s in chosen.items() if s in space.schemes(space.group_of[n])}
            config = space.default().with_ops(allowed)
            self._check_executed(backend, space, config)

    def test_mixed_configurations_execute_as_asked(self) -> None:
        backend, space = self.ready()
        rng = np.random.default_rng(0)
        for _ in range(self.random_configs):
            self._check_executed(backend, space, space.sample(rng))

    def test_a_float_operator_between_int8_ones_stays_float(self) -> None:
        backend, space = self.ready()
        for name in space.default().int8_ops:
            if FLOAT in space.schemes(space.group_of[name]):
                self._check_executed(backend, space, space.fall_back(space.default(), name))

    def test_building_twice_gives_the_same_graph_and_outputs(self) -> None:
        backend, space = self.ready()
        first, second = backend.build(space.default()), backend.build(space.default())
        assert first.fingerprint == second.fingerprint
        for a, b in zip(first.predict(self.batches()[0]), second.predict(self.batches()[0]), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_different_graphs_have_different_fingerprints(self) -> None:
        backend, space = self.ready()
        prints = {backend.build(c).fingerprint for c in (space.default(), space.all_float())}
        assert len(prints) == 2

    def test_the_saved_model_is_what_was_measured(self, tmp_path: Path) -> None:
        backend, space = self.ready()
        default = space.default()
        config = space.fall_back(default, *default.int8_ops[::2])
        measured, saved = backend.build(config), backend.open(backend.save(config, tmp_path / "model"))
        assert dict(saved.executed().int8) == dict(measured.executed().int8)
        assert dict(saved.executed().fp32) == dict(measured.executed().fp32)
        for batch in self.batches()[:2]:
            for a, b in zip(measured.predict(batch), saved.predict(batch), strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)

    def test_the_model_as_given_is_saved_for_another_machine(self, tmp_path: Path) -> None:
        backend, _ = self.ready()
        path = backend.save_reference(tmp_path / "given")
        if path is None:
            pytest.skip("the backend's all-float graph is timed there instead")
        given, saved = backend.reference(), backend.open(path)
        batch = self.batches()[0]
        for a, b in zip(given.predict(batch), saved.predict(batch), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)

    def test_conversion_edges_hold_every_edge_and_name_operators(self) -> None:
        backend, _ = self.ready()
        capabilities, conversion_edges = backend.capabilities(), backend.conversion_edges()
        edges = {(edge.producer, consumer) for edge in conversion_edges for consumer in edge.consumers}
        assert set(capabilities.edges) <= edges
        names = {op.name for op in capabilities.ops}
        assert {name for pair in edges for name in pair if name is not None} <= names | set(capabilities.order)
        assert len({edge.producer for edge in conversion_edges if edge.producer}) == sum(
            1 for k in conversion_edges if k.producer
        )

    def test_a_profile_if_there_is_one_sees_every_int8_operator(self) -> None:
        backend, space = self.ready()
        config = space.default()
        batch = self.batches()[0]
        int8 = backend.build(config).profile(batch, 5)
        fp32 = backend.build(space.all_float()).profile(batch, 5)
        if int8 is None or fp32 is None:
            return
        assert set(config.int8_ops) <= set(int8.ops)
        assert set(fp32.ops) <= set(space.ops) | set(backend.capabilities().order)
        # Differences of timings: on a busy machine a short operator may get none.
        assert min(int8.ops.values()) >= 0
        assert max(int8.ops.values()) > 0
        assert int8.other >= 0
        assert int8.conversions
        assert all(elements > 0 and seconds >= 0 for elements, seconds in int8.conversions)

    def test_an_operator_switched_to_int8_gives_what_a_graph_of_its_own_gives(self) -> None:
        backend, space = self.ready()
        both = backend.dual_precision_session(space.default())
        if both is None:
            pytest.skip("the backend has no switchable graph")
        batch, base = self.batches()[0], space.all_float()
        np.testing.assert_allclose(both.predict(batch, ())[0], backend.build(base).predict(batch)[0], atol=1e-4)
        assert set(both.ops) == set(space.default().int8_ops)
        for name in both.ops[::2]:
            group = space.group_of[name]
            config = base.with_op(*group, scheme=space.default().schemes[name])
            alone, switched = backend.build(config).predict(batch)[0], both.predict(batch, group)[0]
            # The engine may sum in another order, so that single values round to the next integer.
            difference = np.abs(alone - switched).max()
            assert difference <= 0.02 * np.abs(alone).max(), name
        both.close()

    def test_int8_is_close_to_fp32(self) -> None:
        backend, space = self.ready()
        batch = self.batches()[0]
        fp32 = _flat(backend.reference().predict(batch)[0])
        int8 = _flat(backend.build(space.default()).predict(batch)[0])
        assert np.linalg.norm(fp32 - int8) < 0.3 * np.linalg.norm(fp32)
        assert not np.array_equal(fp32, int8)

    def _check_executed(self, backend: Backend, space: Space, config: Config) -> None:
        names = backend.build(config).executed().int8_names & set(space.ops)
        expected = set(config.int8_ops)
        assert names == expected, f"not executed in int8: {expected - names}; unexpected int8: {names - expected}"


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(len(array), -1).astype(np.float64)
