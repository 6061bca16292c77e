"""What is told of a processor, from what systems say of theirs."""

import pytest

from nc_strategies.runtime import machine

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model\t\t: 85
model name\t: Some Processor @ 2.70GHz
flags\t\t: fpu sse4_1 avx avx2 fma avx512f avx512_vnni

processor\t: 1
model name\t: Another
"""
ARM = """processor\t: 0
Features\t: fp asimd asimddp i8mm
CPU implementer\t: 0x41
CPU part\t: 0xd0c
"""


@pytest.fixture
def cpuinfo(tmp_path):
    def write(text):
        path = tmp_path / "cpuinfo"
        path.write_text(text)
        return path

    return write


def test_the_first_processor_is_named_with_the_instruction_sets_that_kernels_use(cpuinfo):
    path = cpuinfo(X86)
    assert machine.processor_name(path) == "Some Processor @ 2.70GHz"
    assert machine.instruction_sets(path) == ("sse4_1", "avx", "avx2", "fma", "avx512f", "avx512_vnni")


def test_an_arm_processor_without_a_name_is_its_architecture(cpuinfo, monkeypatch):
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    path = cpuinfo(ARM)
    assert machine.processor_name(path) == "aarch64"
    assert machine.instruction_sets(path) == ("asimd", "asimddp", "i8mm")


def test_without_linux_numpy_tells_the_instruction_sets(tmp_path, monkeypatch):
    import numpy as np

    monkeypatch.setattr(np, "show_config", lambda mode: {"SIMD Extensions": {"baseline": ["NEON"], "found": ["SVE"]}})
    assert machine.instruction_sets(tmp_path / "none") == ("neon", "sve")
    assert machine.processor_name(tmp_path / "none")


def test_other_instructions_or_another_core_are_another_identity(cpuinfo):
    first = machine.identity(cpuinfo(X86))
    assert machine.identity(cpuinfo(X86.replace(" avx512_vnni", ""))) != first
    arm = machine.identity(cpuinfo(ARM))
    assert machine.identity(cpuinfo(ARM.replace("0xd0c", "0xd40"))) != arm


def test_there_is_a_core():
    assert machine.cores() >= 1
