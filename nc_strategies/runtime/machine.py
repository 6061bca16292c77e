"""The processor: its name, its instruction sets, and the cores that this process may use."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
NAME_FIELDS = ("model name", "Model", "Hardware")
"""Where Linux names the processor: x86, then what some ARM boards have."""
FLAG_FIELDS = ("flags", "Features")
"""Where Linux lists instruction sets: x86, ARM."""
MODEL_FIELDS = ("CPU implementer", "CPU part", "CPU variant")
"""What tells ARM cores apart, whose names Linux does not know."""
INSTRUCTION_SETS = (
    "sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx_vnni_int8", "avx512f", "avx512dq", "avx512bw",
    "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp",
    "asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm",
)  # fmt: skip
"""Those that int8 and float kernels are written for, in the words of Linux's ``/proc/cpuinfo``."""


def processor_name(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name, or at least its architecture.

    Args:
        cpuinfo: Linux's description of the processors; Python's `platform` is asked where there is none.
    """
    fields = _fields(cpuinfo)
    named = [fields[name] for name in NAME_FIELDS if fields.get(name)]
    return named[0] if named else platform.processor() or platform.machine()


def instruction_sets(cpuinfo: Path = CPUINFO) -> tuple[str, ...]:
    """Instruction sets of the processor that kernels use; empty where nothing tells.

    Args:
        cpuinfo: Linux's description of the processors; where there is none, what numpy finds is given in its own words.
    """
    fields = _fields(cpuinfo)
    for name in FLAG_FIELDS:
        if name in fields:
            flags = set(fields[name].split())
            return tuple(each for each in INSTRUCTION_SETS if each in flags)
    return _found_by_numpy()


def cores() -> int:
    """Logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def identity(cpuinfo: Path = CPUINFO) -> list[str]:
    """What tells this processor from one that runs other kernels: for the keys of caches."""
    fields = _fields(cpuinfo)
    kept = [f"{name}: {fields[name]}" for name in (*NAME_FIELDS, *FLAG_FIELDS, *MODEL_FIELDS) if name in fields]
    return [platform.machine(), platform.processor(), *kept]


def _fields(cpuinfo: Path) -> dict[str, str]:
    """Fields of the first processor that has them."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}  # no Linux: the callers have another source
    fields: dict[str, str] = {}
    for line in lines:
        name, mark, value = line.partition(":")
        if mark:
            fields.setdefault(name.strip(), value.strip())
    return fields


def _found_by_numpy() -> tuple[str, ...]:
    import numpy as np

    described: Any = np.show_config(mode="dicts")
    extensions = described.get("SIMD Extensions") or {}
    return tuple(str(name).lower() for key in ("baseline", "found") for name in extensions.get(key, ()))
