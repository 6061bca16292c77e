"""What an engine can really run of a given model."""

from __future__ import annotations

from dataclasses import dataclass

from nc_strategies.space.scheme import OpScheme

OptionValue = bool | int | float | str


@dataclass(frozen=True)
class OpCapability:
    """One operator and the schemes in which the engine executes it.

    Args:
        name: The operator's name in the model, unique.
        type: Its type in the framework's words (``Conv``, ``MatMul``, ...).
        schemes: What can run, the default first; `FLOAT` is one of them.
        opt_in: Int8 is possible but known to hurt: only used when a dtype override of the user's asks for it.
        parameters: Number of weight elements, 0 without a weight.
        elements: Number of output elements for one sample, 0 when unknown.
    """

    name: str
    type: str
    schemes: tuple[OpScheme, ...]
    opt_in: bool = False
    parameters: int = 0
    elements: int = 0


@dataclass(frozen=True)
class Capabilities:
    """All that may be chosen for a model on an engine.

    Args:
        ops: Operators with a choice, in execution order.
        edges: Pairs (producer, consumer) of operator names: where int8 meets fp32, a conversion is paid.
        tied: Groups of operators that must share one scheme.
        options: Options of the whole graph with their values, the default first.
        order: Names of all computing operators in execution order, also those without a choice.
    """

    ops: tuple[OpCapability, ...]
    edges: tuple[tuple[str, str], ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()
    options: tuple[tuple[str, tuple[OptionValue, ...]], ...] = ()
    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [op.name for op in self.ops]
        if len(set(names)) != len(names):
            raise ValueError("operator names in Capabilities must be unique")
        for op in self.ops:
            if not op.schemes:
                raise ValueError(f"operator {op.name} has no scheme")
