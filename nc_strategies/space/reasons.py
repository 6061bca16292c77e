"""Why no operator of a model can run in int8."""

from __future__ import annotations

from collections import Counter

from nc_strategies.errors import InputError
from nc_strategies.space.capabilities import Capabilities
from nc_strategies.space.space import Space

MOST_REASONS = 4
"""Operator types that one message names: more would not fit a line that is read."""


def nothing_to_quantize(capabilities: Capabilities) -> InputError:
    """Why no operator can run in int8: because of the model and the engine, or because of the overrides."""
    usual = Space(capabilities).quantizable
    if usual:
        counts = Counter(op.type for op in usual)
        removed = ", ".join(f"{count} {kind}" for kind, count in counts.most_common(MOST_REASONS))
        return InputError(
            "space", "the overrides leave no operator in int8", f"without them, these can run in int8: {removed}"
        )
    reasons = [f"{count} {kind}: {reason}" for kind, reason, count in capabilities.float_reasons()]
    opt_in = Counter(op.type for op in capabilities.ops if op.opt_in)
    reasons += [f"{count} {kind}: only where space.op_type_dict asks for int8" for kind, count in opt_in.items()]
    shown = reasons[:MOST_REASONS] + (["..."] if len(reasons) > MOST_REASONS else [])
    why = f" ({'; '.join(shown)})" if shown else ""
    return InputError("model", f"no operator of this model can run in int8 on this backend{why}")
