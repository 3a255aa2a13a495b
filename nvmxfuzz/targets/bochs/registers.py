# SPDX-License-Identifier: GPL-2.0-only
"""The registers as the wheel's C interface takes them, and a hypervisor's plain set of them."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import ClassVar, Final

from nvmxfuzz.arch.segments import SEGMENTS

_U16, _U32, _U64 = ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64

_GENERAL: Final = (
    *("seed", "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *(f"r{number}" for number in range(8, 16)),
    *("rip", "rflags"),
)
_LAST_MSRS: Final = (
    *("kernel_gs_base", "apic_base", "pat", "sysenter_cs", "sysenter_eip", "sysenter_esp"),
    *("star", "lstar", "cstar", "sfmask", "tsc_aux"),
)


class Segment(ctypes.Structure):
    """One segment register; `attr` is bits 55:40 of its descriptor."""

    _fields_: ClassVar = [
        ("present", ctypes.c_bool),
        ("selector", _U16),
        ("base", _U64),
        ("limit", _U32),
        ("attr", _U16),
    ]

    def load(self, selector: int, attr: int, base: int = 0, limit: int = 0xFFFF_FFFF) -> None:
        """Load the register with a usable segment."""
        self.present, self.selector, self.attr = True, selector, attr
        self.base, self.limit = base, limit


class TableRegister(ctypes.Structure):
    """GDTR or IDTR."""

    _fields_: ClassVar = [("base", _U64), ("limit", _U16)]


class Vector(ctypes.Structure):
    """One 512-bit register."""

    _fields_: ClassVar = [("q", _U64 * 8)]


class Float80(ctypes.Structure):
    """One x87 register."""

    _fields_: ClassVar = [("fraction", _U64), ("exp", _U16)]


class State(ctypes.Structure):
    """The argument of `bochscpu_cpu_set_state`. A new one is all zero."""

    _fields_: ClassVar = [
        *((name, _U64) for name in _GENERAL),
        *((name, Segment) for name in SEGMENTS),
        *((name, TableRegister) for name in ("gdtr", "idtr")),
        *(("cr0", _U32), ("cr2", _U64), ("cr3", _U64), ("cr4", _U32), ("cr8", _U64)),
        *((f"dr{number}", _U64) for number in range(4)),
        *(("dr6", _U32), ("dr7", _U32), ("xcr0", _U32), ("zmm", Vector * 32)),
        *((name, _U16) for name in ("fpcw", "fpsw", "fptw", "fpop")),
        *(("fpst", Float80 * 8), ("mxcsr", _U32), ("mxcsr_mask", _U32)),
        *(("tsc", _U64), ("efer", _U32)),
        *((name, _U64) for name in _LAST_MSRS),
    ]


_CODE: Final = 0x9B
_DATA: Final = 0xC093
_BUSY_TSS: Final = 0x8B
_LONG: Final = 0x2000
_BIG: Final = 0x4000
_GRANULAR: Final = 0x8000
_DPL: Final = 5
"""Position of the privilege level in a segment's attributes."""

CODE_SELECTOR: Final = 0x10
DATA_SELECTOR: Final = 0x18


def hypervisor(cr: tuple[int, int, int], efer: int, cpl: int = 0, cs_l: bool = True) -> State:
    """Return flat segments and reset values; `cr` is CR0, CR3 and CR4."""
    state = State.from_buffer_copy(_flat(cpl, cs_l))
    state.cr0, state.cr3, state.cr4 = cr
    state.efer = efer
    return state


@cache
def _flat(cpl: int, cs_l: bool) -> bytes:
    """Return the registers but for CR0, CR3, CR4 and IA32_EFER."""
    state = State()
    state.cs.load(CODE_SELECTOR | cpl, _CODE | _GRANULAR | cpl << _DPL | (_LONG if cs_l else _BIG))
    for name in ("ss", "ds", "es", "fs", "gs"):
        getattr(state, name).load(DATA_SELECTOR | cpl, _DATA | cpl << _DPL)
    state.tr.load(0x20, _BUSY_TSS, limit=0x67)
    state.rflags = 2
    state.mxcsr, state.mxcsr_mask, state.fpcw = 0x1F80, 0xFFFF, 0x27F
    state.dr6, state.dr7 = 0xFFFF_0FF0, 0x400
    state.pat, state.apic_base, state.xcr0 = 0x0007_0406_0007_0406, 0xFEE0_0900, 1
    return bytes(state)
