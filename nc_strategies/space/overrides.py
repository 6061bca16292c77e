"""The user's quantization overrides in Neural Compressor's format, which narrow an engine's capabilities."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nc_strategies.errors import InputError
from nc_strategies.space.capabilities import Capabilities, OpCapability
from nc_strategies.space.scheme import DTYPES, OpScheme, TensorScheme

PARTS = ("activation", "weight")
FIELDS = ("dtype", "scheme", "granularity", "algorithm", "quant_mode", "group_size")
WHOLE_CHANNEL = "-1"
"""Group size of weights that have one scale per output channel or tensor, as Neural Compressor writes it."""


@dataclass(frozen=True)
class Overrides:
    """Quantization overrides: the values that the user allows per operator.

    A field that is not named is not restricted. ``fp32`` stays possible unless a ``dtype`` override omits it.

    Args:
        op_type_dict: Regular expression for operator types to ``{part: {field: [allowed values]}}``, with part
            ``activation`` or ``weight`` and field ``dtype``, ``scheme``, ``granularity``, ``algorithm``,
            ``quant_mode`` (``static``, ``dynamic`` or ``weight_only``) or, of a weight, ``group_size`` (weights per
            scale; -1 for whole channels).
        op_name_dict: The same for operator names. An operator that matches here ignores overrides by type.
        excluded_precisions: Data types that no operator may use: ``int8``, ``uint8``, ``fp32``.
    """

    op_type_dict: Mapping[str, Any] = field(default_factory=dict)
    op_name_dict: Mapping[str, Any] = field(default_factory=dict)
    excluded_precisions: tuple[str, ...] = ()

    def apply(self, capabilities: Capabilities) -> tuple[OpCapability, ...]:
        """The operators with the schemes that the overrides allow.

        Raises:
            InputError: an override is malformed, matches no operator, or leaves an operator without a scheme.
        """
        by_type = _parse("space.op_type_dict", self.op_type_dict)
        by_name = _parse("space.op_name_dict", self.op_name_dict)
        for precision in self.excluded_precisions:
            if precision not in DTYPES:
                raise InputError(
                    "space.excluded_precisions", f"unknown precision {precision!r}", f"allowed: {', '.join(DTYPES)}"
                )
        _check_keys(by_type, sorted({op.type for op in capabilities.ops}), "operator type")
        _check_keys(by_name, [op.name for op in capabilities.ops], "operator")
        for override in by_type:
            override.check_values([op for op in capabilities.ops if override.pattern.fullmatch(op.type)])
        for override in by_name:
            override.check_values([op for op in capabilities.ops if override.pattern.fullmatch(op.name)])
        return tuple(self._narrow(op, by_type, by_name) for op in capabilities.ops)

    def _narrow(self, op: OpCapability, by_type: list[_Override], by_name: list[_Override]) -> OpCapability:
        overrides = [w for w in by_name if w.pattern.fullmatch(op.name)]
        overrides = overrides or [w for w in by_type if w.pattern.fullmatch(op.type)]
        asked = any(override.names_dtype for override in overrides)
        in_use = asked or not op.opt_in
        schemes = op.schemes if in_use else tuple(s for s in op.schemes if s.is_float)
        for override in overrides:
            schemes = override.narrow(op, schemes)
        # An operator that stays float because nobody asked for its int8 is not one that the exclusion is about.
        allowed = _without(op, schemes, self.excluded_precisions if in_use else ())
        if op.opt_in and asked:
            allowed = tuple(sorted(allowed, key=lambda scheme: scheme.is_float))
        return replace(op, schemes=allowed)


def _without(op: OpCapability, schemes: tuple[OpScheme, ...], excluded: Iterable[str]) -> tuple[OpScheme, ...]:
    """Schemes that use none of some data types."""
    refused = set(excluded)
    kept = tuple(s for s in schemes if not refused & {part.dtype for part in (s.activation, s.weight) if part})
    if not kept:
        raise InputError(
            "space.excluded_precisions",
            f"leaves nothing for operator {op.name!r} ({op.type})",
            f"it can use {', '.join(sorted({s.activation.dtype for s in schemes}))}",
        )
    return kept


@dataclass(frozen=True)
class _Override:
    key: str
    pattern: re.Pattern[str]
    parts: Mapping[str, Mapping[str, tuple[str, ...]]]

    @property
    def names_dtype(self) -> bool:
        """Whether it says which data types are allowed."""
        return any("dtype" in fields for fields in self.parts.values())

    def check_values(self, ops: list[OpCapability]) -> None:
        """Check that at least one matched operator supports each value."""
        for part, fields in self.parts.items():
            for name, values in fields.items():
                supported = _supported(ops, part, name)
                for value in values:
                    if supported and value not in supported:
                        raise InputError(
                            f"{self.key}.{self.pattern.pattern}.{part}.{name}",
                            f"{value!r} is not possible for any operator it matches",
                            f"possible: {', '.join(sorted(supported - {'none'}))}",
                        )

    def narrow(self, op: OpCapability, schemes: tuple[OpScheme, ...]) -> tuple[OpScheme, ...]:
        for part, fields in self.parts.items():
            for name, values in fields.items():
                allowed = tuple(s for s in schemes if _allows(s, part, name, values))
                if not allowed:
                    possible = sorted(_supported([op], part, name))
                    raise InputError(
                        f"{self.key}.{self.pattern.pattern}.{part}.{name}",
                        f"{list(values)} is not possible for operator {op.name!r} ({op.type})",
                        f"possible: {', '.join(possible)}",
                    )
                schemes = allowed
        return schemes


def _allows(scheme: OpScheme, part: str, name: str, values: tuple[str, ...]) -> bool:
    tensor: TensorScheme | None = getattr(scheme, part)
    if tensor is None or scheme.is_float or (tensor.is_float and name != "quant_mode"):
        return tensor is None or name != "dtype" or tensor.dtype in values
    return _value(scheme, part, name) in values


def _value(scheme: OpScheme, part: str, name: str) -> str:
    """The value of a field in a scheme."""
    tensor: TensorScheme = getattr(scheme, part)
    if name == "quant_mode":
        return scheme.mode
    if name == "group_size":
        head, _, size = tensor.granularity.rpartition("per_block_")
        return size if not head and size.isdigit() else WHOLE_CHANNEL
    return str(getattr(tensor, name))


def _supported(ops: Iterable[OpCapability], part: str, name: str) -> set[str]:
    """The values of a field that some operators offer."""
    return {_value(s, part, name) for op in ops for s in op.schemes if getattr(s, part)}


def _parse(key: str, overrides: Mapping[str, Any]) -> list[_Override]:
    if not isinstance(overrides, Mapping):
        raise InputError(key, f"expected a mapping, got {overrides!r}", "regular expressions to overrides")
    parsed = []
    for text, parts in overrides.items():
        where = f"{key}.{text}"
        try:
            pattern = re.compile(str(text))
        except re.error as error:
            raise InputError(where, f"not a regular expression ({error})") from None
        checked: dict[str, dict[str, tuple[str, ...]]] = {}
        for part, fields in _items(where, parts, PARTS):
            checked[part] = {
                name: _values(f"{where}.{part}.{name}", values)
                for name, values in _items(f"{where}.{part}", fields, FIELDS)
            }
        parsed.append(_Override(key, pattern, checked))
    return parsed


def _items(where: str, data: Any, allowed: Iterable[str]) -> list[tuple[str, Any]]:
    if not isinstance(data, Mapping):
        raise InputError(where, f"expected a mapping, got {data!r}", f"allowed keys: {', '.join(allowed)}")
    for name in data:
        if name not in allowed:
            raise InputError(where, f"unknown key {name!r}", f"allowed: {', '.join(allowed)}")
    return list(data.items())


def _values(where: str, values: Any) -> tuple[str, ...]:
    values = [values] if isinstance(values, (str, int)) and not isinstance(values, bool) else values
    if where.endswith(".group_size") and isinstance(values, (list, tuple)):
        values = [str(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in values]
    if not isinstance(values, (list, tuple)) or not values or not all(isinstance(v, str) for v in values):
        raise InputError(where, f"expected a list of names, got {values!r}", "for example [int8] or [per_tensor]")
    return tuple(values)


def _check_keys(overrides: list[_Override], names: list[str], what: str) -> None:
    for override in overrides:
        if not any(override.pattern.fullmatch(name) for name in names):
            shown = ", ".join(names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")
            raise InputError(
                f"{override.key}.{override.pattern.pattern}",
                f"matches no {what} that can be quantized",
                f"there are: {shown or 'none'}",
            )
