"""Movement of Transpose, Reshape, Squeeze and the like past the operators that work on every element alike.

A convolution of a sequence (Squeeze behind it), a product with more than one axis of rows (Reshape), a convolution with
channels first (Transpose) or a transposed one (DepthToSpace) has its bias and activation behind such a move. Behind the
move's new place the weighted operator is followed by what its kernel computes as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.tensorflow.graph import Graph, Node, follow
from nc_strategies.backends.tensorflow.matrix_products import Shape, static_types

MOVES = frozenset({"Transpose", "Reshape", "Squeeze", "DepthToSpace", "Slice"})
ELEMENTWISE = frozenset(
    {
        "Relu",
        "Relu6",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Sigmoid",
        "Tanh",
        "Softplus",
        "Erf",
        "Erfc",
        "Neg",
        "Abs",
        "Exp",
        "Square",
        "Identity",
    }
)
BY_CHANNEL = frozenset({"BiasAdd", "Add", "AddV2", "Sub", "Mul", "RealDiv", "Maximum", "Minimum", "SquaredDifference"})
"""Operators that take two tensors; here with one that is a number a channel, or with two that were moved alike."""
POSITIONED = frozenset({"ConcatV2", "Pad"})
"""Operators that name axes by their position, in their last input."""
REDUCTIONS = frozenset({"Mean", "Sum", "Max", "Min"})
STARTS = frozenset({"Conv2D", "DepthwiseConv2dNative", "MatMul"})
"""Operators behind which moves are moved on; and then behind what they have passed."""
NORMS = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})
POOLS = frozenset({"MaxPool", "AvgPool"})
"""Operators behind which a Transpose is moved on as well: with channels first, one is there for their sake only."""
LARGEST_ROUNDS = 1000


def postpone_moves(graph: Graph, keep: Collection[str]) -> dict[str, str]:
    """Move each move that follows a weighted operator as far towards the outputs as it goes, and cancel opposite ones.

    Args:
        graph: The graph; it is changed.
        keep: Nodes that are fed or fetched.

    Returns:
        Replaced tensors and their replacements.
    """
    if not any(node.op in MOVES and graph.nodes[_source(node)].op in STARTS for node in _with_source(graph)):
        return {}
    return _Movement(graph, set(keep)).run()


def _with_source(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes.values() if node.input and _source(node) in graph.nodes]


def _source(node: Node) -> str:
    return str(node.input[0])


class _Movement:
    """See `postpone_moves`."""

    def __init__(self, graph: Graph, keep: set[str]) -> None:
        self.graph, self.keep = graph, keep
        self.shapes, _ = static_types(graph)
        self.readers = graph.consumers()
        self.passed: set[str] = set()
        self.replaced: dict[str, str] = {}

    def run(self) -> dict[str, str]:
        for _ in range(LARGEST_ROUNDS):
            changed = False
            order = list(self.graph.ordered())
            self._see_passed(order)
            for name in [node.name for node in order]:
                node = self.graph.nodes.get(name)
                if node is not None and node.op in (*MOVES, "ExpandDims"):
                    changed |= self._cancel(node)
                elif node is not None:
                    changed |= self._pass(node)
            if not changed:
                break
        return self.replaced

    def _see_passed(self, order: Iterable[Node]) -> None:
        """Note weighted operators, pools, and what only works on their elements or moves them."""
        for node in order:
            follows = node.op in ELEMENTWISE or node.op in NORMS or _adds_to_channels(node)
            follows = follows or (node.op in MOVES and self._keeps_channels(node))
            if node.op in STARTS | POOLS or (follows and any(text in self.passed for text in node.input)):
                self.passed.add(node.name)

    def _move_before(self, tensor: str) -> Node | None:
        """The move that makes a tensor, if it follows what it may leave."""
        node = self.graph.nodes.get(tensor)
        if node is None or node.op not in MOVES or node.name in self.keep or _source(node) not in self.passed:
            return None
        return node if self._keeps_channels(node) else None

    def _keeps_channels(self, move: Node) -> bool:
        """Whether the channels of what a move reads are known in what it makes."""
        before, after = self.shapes.get(_source(move)), self.shapes.get(move.name)
        if before is None or after is None or not before or before[-1] is None:
            return False
        if move.op == "Transpose":
            return self._order(move) is not None
        if move.op == "Slice":
            return self.graph.value(move.input[1]) is not None and before[-1] == after[-1]
        return move.op == "DepthToSpace" or _last_axes(before[-1], after) > 0 or _spreads_channels(before, after)

    def _order(self, move: Node) -> list[int] | None:
        value = self.graph.value(move.input[1])
        return None if value is None else [int(axis) for axis in value]

    # Cancelling

    def _cancel(self, node: Node) -> bool:
        """Replace a move behind another one that undoes it, or that need not come first."""
        before = self.graph.nodes.get(_source(node))
        if before is None or node.name in self.keep:
            return False
        source = _source(before) if before.op in (*MOVES, "ExpandDims") else ""
        if not source:
            return False
        if self._undoes(node, before):
            self._replace(node.name, source)
            self._forget(node)
            return True
        if node.op == before.op == "Reshape":
            self._read_instead(node, 0, source)
            return True
        return False

    def _undoes(self, node: Node, before: Node) -> bool:
        given, made = self.shapes.get(_source(before)), self.shapes.get(node.name)
        if node.op == "Transpose" and before.op == "Transpose":
            first, second = self._order(before), self._order(node)
            return first is not None and second is not None and [first[axis] for axis in second] == [*range(len(first))]
        reshaping = {"Reshape", "Squeeze", "ExpandDims"}
        if node.op not in reshaping or before.op not in reshaping or given is None or made is None:
            return False
        # Equal shapes with at most one unknown size hold the same elements in the same order.
        return given == made and sum(size is None for size in made) <= 1

    # Passing

    def _pass(self, node: Node) -> bool:
        if node.op in ELEMENTWISE:
            return self._pass_one(node)
        if _adds_to_channels(node):
            return self._pass_by_channel(node) or self._pass_two(node)
        if node.op in REDUCTIONS:
            return self._pass_reduction(node)
        return node.op in POSITIONED and self._pass_positioned(node)

    def _alone(self, move: Node, node: Node) -> bool:
        """Whether a move may follow a node: all its readers can be passed, so that it disappears where it is."""
        return all(reader is node or self._passable(reader, move) for reader in self.readers.get(move.name, ()))

    def _passable(self, reader: Node, move: Node) -> bool:
        if reader.op in ELEMENTWISE or (reader.op in MOVES and self._undoes(reader, move)):
            return True
        if reader.op in POSITIONED:
            return self._moved_alike(reader) is not None
        return _adds_to_channels(reader) and all(
            text == move.name or self._number_a_channel(text, move) is not None or self._alike(text, move)
            for text in reader.input
        )

    def _pass_one(self, node: Node) -> bool:
        move = self._move_before(node.input[0])
        if move is None or not self._alone(move, node):
            return False
        self._swap(node, {0: move})
        return True

    def _pass_by_channel(self, node: Node) -> bool:
        for place in (0, 1):
            move = self._move_before(node.input[place])
            if move is None or node.input[0] == node.input[1]:
                continue
            value = self._number_a_channel(node.input[1 - place], move)
            if value is None or (node.op == "BiasAdd" and value.ndim != 1) or not self._alone(move, node):
                continue
            name = self.graph.constant(self.graph.free_name(f"{node.name}/moved"), value)
            self.shapes[name] = value.shape
            self._read_instead(node, 1 - place, name)
            self._swap(node, {place: move})
            return True
        return False

    def _number_a_channel(self, tensor: str, move: Node) -> NDArray[Any] | None:
        """A constant that is read with what a move makes, as it is to be read with what the move reads.

        Returns:
            One number for each channel, shape (channels,), or one number, shape (); None for any other constant.
        """
        value, before, after = self.graph.value(tensor), self.shapes[_source(move)], self.shapes[move.name]
        if value is None or not before or after is None or value.dtype != np.float32 or value.ndim > len(after):
            return None
        shape = [1] * (len(after) - value.ndim) + list(value.shape)
        flat = value.reshape(-1)
        if shape == self._channel_shape(move, before, after):
            # Where channels hold neighbours that the move spreads, each of these has the number of its channel.
            spread = flat.size and before[-1] is not None and before[-1] > flat.size
            return np.tile(flat, (before[-1] or 0) // flat.size) if spread else flat
        return flat.reshape(()) if flat.size == 1 else None

    def _channel_shape(self, move: Node, before: Shape, after: Shape) -> list[int | None]:
        """The shape of a constant with one number for each channel of what a move reads, beside what it makes."""
        if move.op == "Transpose":
            order = self._order(move) or []
            return [after[place] if axis == len(before) - 1 else 1 for place, axis in enumerate(order)]
        count = _last_axes(before[-1], after) if move.op == "Reshape" else 1
        count = count or int(_spreads_channels(before, after))
        return [1] * (len(after) - count) + list(after[len(after) - count :])

    def _pass_two(self, node: Node) -> bool:
        first, second = self._move_before(node.input[0]), self._move_before(node.input[1])
        if first is None or second is None or not self._alike(second.name, first):
            return False
        if not self._alone(first, node) or not self._alone(second, node):
            return False
        self._swap(node, {0: first, 1: second})
        return True

    def _alike(self, tensor: str, move: Node) -> bool:
        """Whether a tensor is made by a move like another one, from a tensor of the same shape."""
        other = self._move_before(tensor)
        if other is None or other.op != move.op:
            return False
        one, two = self.shapes.get(_source(other)), self.shapes.get(_source(move))
        ends = self.shapes.get(other.name), self.shapes.get(move.name)
        if one is None or one != two or ends[0] != ends[1] or any(size is None for size in one[1:]):
            return False
        if move.op == "Transpose":
            return self._order(move) == self._order(other)
        if move.op == "DepthToSpace":
            return bool(move.attr["block_size"].i == other.attr["block_size"].i)
        if move.op == "Slice":
            return all(
                np.array_equal(np.asarray(self.graph.value(a)), np.asarray(self.graph.value(b)))
                for a, b in zip(move.input[1:], other.input[1:], strict=True)
            )
        return True

    def _moved_alike(self, node: Node) -> list[Node] | None:
        """The moves that make all tensors a Concat or Pad reads, if they are alike; else None."""
        count = len(node.input) - 1 if node.op == "ConcatV2" else 1
        if self.graph.value(node.input[-1]) is None:
            return None
        moves = [self._move_before(text) for text in node.input[:count]]
        found = [move for move in moves if move is not None]
        if len(found) < count or self._axes(found[0]) is None:
            return None
        first = self._axes(found[0])
        return found if all(self._axes(move) == first for move in found) else None

    def _axes(self, move: Node) -> list[int] | None:
        """The axis of what a move reads for each axis of what it makes; None where that is not what it does."""
        before = self.shapes.get(_source(move))
        if before is None:
            return None
        if move.op == "Transpose":
            return self._order(move)
        if move.op != "Squeeze" or not move.attr["squeeze_dims"].list.i:
            return None
        gone = {int(axis) % len(before) for axis in move.attr["squeeze_dims"].list.i}
        return [axis for axis in range(len(before)) if axis not in gone]

    def _pass_positioned(self, node: Node) -> bool:
        """Concatenate or pad what moves read, along the axes that they make the given ones of."""
        moves = self._moved_alike(node)
        if moves is None or not all(self._alone(move, node) for move in moves):
            return False
        axes, before = self._axes(moves[0]), self.shapes[_source(moves[0])]
        value, made = self.graph.value(node.input[-1]), self.shapes.get(node.name)
        if axes is None or value is None or before is None or made is None:
            return False
        if node.op == "ConcatV2":
            moved = np.array(axes[int(value) % len(axes)], value.dtype)
        else:
            moved = np.zeros((len(before), 2), value.dtype)
            moved[axes] = value
        name = self.graph.constant(self.graph.free_name(f"{node.name}/moved"), moved)
        self._read_instead(node, len(node.input) - 1, name)
        shape: list[int | None] = [1] * len(before)
        for place, axis in enumerate(axes):
            shape[axis] = made[place]
        self._swap(node, dict(enumerate(moves)), made, tuple(shape))
        return True

    def _pass_reduction(self, node: Node) -> bool:
        """Reduce what a Transpose reads over the axes that it makes the reduced ones of."""
        move, axes = self._move_before(node.input[0]), self.graph.value(node.input[1])
        if move is None or axes is None or move.op != "Transpose" or node.attr["keep_dims"].b:
            return False
        order = self._order(move)
        if order is None:
            return False
        wanted = [int(axis) % len(order) for axis in np.atleast_1d(axes)]
        left = [source for place, source in enumerate(order) if place not in wanted]
        if left != sorted(left):
            return False
        name = self.graph.constant(
            self.graph.free_name(f"{node.name}/axes"), np.array(sorted(order[axis] for axis in wanted), axes.dtype)
        )
        self._read_instead(node, 1, name)
        self._read_instead(node, 0, _source(move))
        return True

    # Editing

    def _swap(
        self, node: Node, moves: dict[int, Node], made: Shape | None = None, computed: Shape | None = None
    ) -> None:
        """Let a node read what moves read, and put a copy of the move behind it.

        Args:
            node: The node.
            moves: Its inputs by their place, and the moves that make them.
            made: Shape behind the copy; the moves' own by default.
            computed: Shape of what the node computes now; that of what the moves read by default.
        """
        first = next(iter(moves.values()))
        after = made or self.shapes[first.name]
        copy = type(first)()
        copy.CopyFrom(first)
        copy.name = self.graph.free_name(f"{node.name}/{first.op}")
        for place, move in moves.items():
            self._read_instead(node, place, _source(move))
        self.shapes[copy.name], self.shapes[node.name] = after, computed or self.shapes[_source(first)]
        self._replace(node.name, copy.name)
        copy.input[0] = node.name
        self.graph.nodes[copy.name] = copy
        for text in copy.input:
            self.readers.setdefault(text, []).append(copy)
        self.passed.add(node.name)

    def _read_instead(self, node: Node, place: int, tensor: str) -> None:
        former = node.input[place]
        node.input[place] = tensor
        readers = self.readers.get(former, [])
        for index, reader in enumerate(readers):
            if reader is node:
                del readers[index]
                break
        self.readers.setdefault(tensor, []).append(node)
        unread = self.graph.nodes.get(former)
        if unread is not None and unread.op in MOVES and not readers and former not in self.keep:
            self._forget(unread)

    def _forget(self, node: Node) -> None:
        for text in node.input:
            self.readers[text] = [reader for reader in self.readers.get(text, []) if reader is not node]
        del self.graph.nodes[node.name]

    def _replace(self, tensor: str, by: str) -> None:
        """Let all readers of a tensor, outputs of the model included, read another one."""
        readers = self.readers.pop(tensor, [])
        self.graph.rewire({tensor: by}, readers)
        self.readers.setdefault(by, []).extend(readers)
        if tensor in self.keep:
            self.replaced[tensor] = by
            self.keep.discard(tensor)
            self.keep.add(by)


def _adds_to_channels(node: Node) -> bool:
    return node.op in BY_CHANNEL and not (node.op == "BiasAdd" and node.attr["data_format"].s == b"NCHW")


def _last_axes(channels: int | None, after: Shape) -> int:
    """How many of the last axes of a shape hold the channels that were one axis; 0 if none do."""
    product = 1
    for count, size in enumerate(reversed(after), 1):
        if size is None:
            return 0
        product *= size
        if product >= (channels or 0):
            return count if product == channels else 0
    return 0


def _spreads_channels(before: Shape, after: Shape) -> bool:
    """Whether each channel after a Reshape takes what whole channels before it hold: one in so many is the same one."""
    return bool(before and after and before[-1] and after[-1]) and (before[-1] or 0) % (after[-1] or 1) == 0


def followed(ends: dict[str, str], replaced: dict[str, str]) -> dict[str, str]:
    """Outputs and their tensors, after tensors were replaced."""
    return {tensor: follow(replaced, end) for tensor, end in ends.items()}
