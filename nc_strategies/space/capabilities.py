"""The operators of a model, and the schemes in which an engine executes them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from nc_strategies.space.scheme import OpScheme

OptionValue = bool | int | float | str


@dataclass(frozen=True)
class OpCapability:
    """One operator, and the schemes in which the engine executes it.

    Args:
        name: The operator's unique name in the model.
        type: Its type in the framework's terms (``Conv``, ``MatMul``, ...).
        schemes: Schemes that the engine executes, the default first; `FLOAT` is one of them.
        opt_in: Int8 is possible but known to harm accuracy; it is used only if the user's dtype overrides request it.
        parameters: Number of weight elements; 0 without a weight.
        elements: Number of output elements per sample; 0 if unknown.
    """

    name: str
    type: str
    schemes: tuple[OpScheme, ...]
    opt_in: bool = False
    parameters: int = 0
    elements: int = 0


@dataclass(frozen=True)
class FloatOp:
    """An operator that computes in floating point on this engine, whatever is chosen, and why.

    Args:
        name: The operator's name.
        type: Its type.
        reason: A short clause, the same text for the same reason.
        fixable: Whether another form of the same operator, such as one with a constant weight, could run in int8.
    """

    name: str
    type: str
    reason: str
    fixable: bool = False


@dataclass(frozen=True)
class Capabilities:
    """All choices for a model on an engine.

    Args:
        ops: Quantizable operators, in execution order.
        edges: Pairs (producer, consumer) of operator names; a conversion is needed if one runs in int8 and the other
            in fp32.
        tied: Groups of operators that must share one scheme.
        options: Options of the whole graph with their values, the default first.
        order: Names of all computing operators in execution order, including those that cannot be quantized.
        float_ops: Computing operators that are not among `ops`, each with the reason; empty where the backend gives
            none.
    """

    ops: tuple[OpCapability, ...]
    edges: tuple[tuple[str, str], ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()
    options: tuple[tuple[str, tuple[OptionValue, ...]], ...] = ()
    order: tuple[str, ...] = ()
    float_ops: tuple[FloatOp, ...] = ()

    def __post_init__(self) -> None:
        names = [op.name for op in self.ops]
        if len(set(names)) != len(names):
            raise ValueError("operator names in Capabilities must be unique")
        for op in self.ops:
            if not op.schemes:
                raise ValueError(f"operator {op.name} has no scheme")

    def float_reasons(self) -> tuple[tuple[str, str, int], ...]:
        """Triples (type, reason, number of operators) of `float_ops`: those that are fixable first, then by number."""
        counts = Counter((op.fixable, op.type, op.reason) for op in self.float_ops)
        ordered = sorted(counts.items(), key=lambda item: (not item[0][0], -item[1], item[0][1:]))
        return tuple((kind, reason, count) for (_, kind, reason), count in ordered)
