# SPDX-License-Identifier: GPL-2.0-only
"""Finding the shared object of `bochscpu-python`, and what is known of each build of it.

All else here relies on where things lie inside that file, so that a build without a line in this
table is refused.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Final

from nvmxfuzz.errors import InputError

PACKAGE: Final = "bochscpu"
REQUIREMENT: Final = "bochscpu-python==0.4.0"
_INSTALL: Final = f"install it with: pip install {REQUIREMENT}"


@dataclass(frozen=True, slots=True)
class Offsets:
    """Where the parts of Bochs' CPU object lie, in bytes from the symbol `bx_cpu`."""

    state_size: int
    """What comes before the TLBs: all registers and all that VM entry reads or writes."""
    extensions: int
    """u32: VMX features of the model, as Bochs numbers them."""
    cr4_allowed: int
    """u32: the bits of CR4 that can be 1."""
    in_vmx: int
    """u8: between VMXON and VMXOFF."""
    in_vmx_guest: int
    """u8: in VMX non-root operation."""
    current_vmcs: int
    """u64: the current-VMCS pointer; behind it, u64, the host address of that region."""
    vmxon_pointer: int
    """u64."""
    capabilities: int
    """`capabilities.ALLOWED`, the controls that can be 1."""
    vmcs_map: int
    """A pointer to the object that knows where each VMCS field lies."""
    vmlaunch_opcode: int
    """Number of VMLAUNCH among Bochs' instructions; the one that follows stands for VMRESUME."""


_0_4_0: Final = Offsets(
    state_size=0x9100,
    extensions=0x54,
    cr4_allowed=0x2AC,
    in_vmx=0x8DA8,
    in_vmx_guest=0x8DA9,
    current_vmcs=0x8DB0,
    vmxon_pointer=0x8DC0,
    capabilities=0x9030,
    vmcs_map=0x9068,
    vmlaunch_opcode=0x583,
)

BUILDS: Final[Mapping[str, Offsets]] = MappingProxyType(
    {
        # 0.4.0 for CPython 3.11
        "a872ef067d57b4d9de17370e1e26a41e2790960518729363627adb50fbd035fe": _0_4_0,
        # 0.4.0 for the stable ABI of CPython 3.12 and newer
        "3d6ffafb950801b2f19a9b6eb637027cfd9b63e2e15eb772ebed010563ac4480": _0_4_0,
    }
)
"""What is known of each build, by the SHA-256 of its shared object."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """An installed build that is known."""

    path: Path
    data: bytes
    offsets: Offsets


def usable() -> str:
    """Return why the wheel cannot be used here, as a sentence, or "" if it can."""
    try:
        installed()
    except InputError as problem:
        return str(problem)
    return ""


@cache
def installed() -> Wheel:
    """Return the installed wheel; InputError says why there is none that can be used."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise InputError("the target bochs runs on Linux on x86-64 only; use another target")
    path = _find()
    if path is None:
        raise InputError(f"the target bochs needs {REQUIREMENT}, which is missing; {_INSTALL}")
    return read(path)


def read(path: Path) -> Wheel:
    """Return the wheel whose shared object is `path`; InputError if the build is not known."""
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    offsets = BUILDS.get(digest)
    if offsets is None:
        raise InputError(
            f"the target bochs does not know this build of bochscpu-python ({path.name}, "
            f"SHA-256 {digest[:16]}...), and will not guess where things lie in it; {_INSTALL}"
        )
    return Wheel(path, data, offsets)


def _find() -> Path | None:
    """Return the shared object without importing the package, which fails on an older glibc."""
    spec = find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob("_bochscpu*.so")):
            return path
    return None
