# SPDX-License-Identifier: GPL-2.0-only
"""The checks before VMfail that KVM leaves to the processor, compiled as KVM is."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.recipe import load_recipe
from nvmxfuzz.targets.kvm_native.build.shell import first, telling_lines, tool_environment

RULES: Final = (
    "execution.tpr-threshold.reserved",
    "execution.tpr-threshold.vtpr",
    "execution.tsc-multiplier.zero",
)
"""The rules that these checks are, in their order."""

_SOURCE: Final = Path(__file__).with_name("missing_checks.c")
_FIELDS: Final = (
    "cpu_based_vm_exec_control",
    "secondary_vm_exec_control",
    "tpr_threshold",
    "tsc_multiplier",
)


class MissingChecks:
    """The checks on images of a kernel's struct vmcs12; `address` is that of the function."""

    def __init__(self, offsets: Mapping[str, int]) -> None:
        """Compile them for the offsets of the fields; InputError if that does not go."""
        self._library = _compiled([f"-D{name.upper()}={offsets[name]}" for name in _FIELDS])
        self._function = self._library.missing_checks
        self._function.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
        self.address = ctypes.cast(self._function, ctypes.c_void_p).value or 0

    def first(self, image: bytes, virtual_apic: bytes) -> str:
        """Return the name of the first rule that is broken, or "".

        `virtual_apic` is the virtual-APIC page, of 4096 bytes.
        """
        failed = int(self._function(image, virtual_apic))
        return RULES[failed - 1] if failed else ""


def _compiled(defines: list[str]) -> ctypes.CDLL:
    flags = load_recipe().flags
    with TemporaryDirectory() as folder:
        path = Path(folder, "missing_checks.so")
        words = ["gcc", *flags["kernel"], *flags["gcc"], *flags["plain-all"], *defines]
        _run([*words, "-shared", "-nostdlib", str(_SOURCE), "-o", str(path)])
        return ctypes.CDLL(os.fspath(path))


def _run(words: list[str]) -> None:
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, env=tool_environment()
        )
    except FileNotFoundError:
        raise InputError("gcc is missing: run apt-get install gcc") from None
    if done.returncode:
        reason = first(telling_lines(done.stderr))
        raise InputError(f"the missing checks do not compile: {reason}")
