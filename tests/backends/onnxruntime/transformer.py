"""A small encoder block whose channels differ in range, with the normalization before or after each branch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

spec = importlib.util.spec_from_file_location("small_models", Path(__file__).with_name("models.py"))
models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(models)
LENGTH, WIDTH, HEADS = 6, 16, 2


def tokens(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, LENGTH, WIDTH)).astype(np.float32)


def block(path, after=False, spread=0):
    """Operators are named q, k, v, o, up and down.

    Args:
        path: Where to save the model.
        after: Whether normalizations follow the sums, as in BERT, instead of standing before the products.
        spread: Largest exponent of the powers of two by which channels of the normalizations differ in range.
    """
    b = models.Builder(5)

    def product(x, name, rows, columns, uneven=None):
        values = b.rng.normal(size=(rows, columns)) * rows**-0.5
        b.constant(f"{name}_w", values if uneven is None else values / uneven[:, None])
        b.nodes.append(models.helper.make_node("MatMul", [x, f"{name}_w"], [f"{name}_p"], name=name))
        b.constant(f"{name}_b", 0.1 * b.rng.normal(size=columns))
        return b.node("Add", [f"{name}_p", f"{name}_b"], f"{name}_s")

    def normalization(x, name, uneven):
        b.constant(f"{name}_g", uneven)
        b.constant(f"{name}_b", 0.1 * uneven)
        return b.node("LayerNormalization", [x, f"{name}_g", f"{name}_b"], f"{name}_y", axis=-1)

    first, second = (2.0 ** b.rng.integers(-spread, spread + 1, WIDTH) for _ in range(2))
    b.constant("split", [0, LENGTH, HEADS, WIDTH // HEADS], np.int64)
    b.constant("merge", [0, LENGTH, WIDTH], np.int64)
    x = "x" if after else normalization("x", "ln1", first)
    heads = {}
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        y = b.node("Reshape", [product(x, name, WIDTH, WIDTH, None if after else first), "split"], f"{name}_r")
        heads[name] = b.node("Transpose", [y], f"{name}_t", perm=perm)
    weights = b.node("Softmax", [b.node("MatMul", [heads["q"], heads["k"]], "scores")], "weights", axis=-1)
    y = b.node("Transpose", [b.node("MatMul", [weights, heads["v"]], "mixed")], "mixed_t", perm=[0, 2, 1, 3])
    y = product(b.node("Reshape", [y, "merge"], "mixed_r"), "o", WIDTH, WIDTH)
    x = b.node("Add", [y, "x"], "sum1")
    z = normalization(x, "ln1" if after else "ln2", second)
    y = b.node("Relu", [product(z, "up", WIDTH, 2 * WIDTH, second)], "up_r")
    y = product(y, "down", 2 * WIDTH, WIDTH)
    if after:
        normalization(b.node("Add", [y, z], "sum2"), "ln2", np.ones(WIDTH))
        b.node("Identity", ["ln2_y"], "y")
    else:
        b.node("Add", [y, x], "y")
    return b.save(path, ["N", LENGTH, WIDTH], ["N", LENGTH, WIDTH])
