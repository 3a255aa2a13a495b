# SPDX-License-Identifier: GPL-2.0-only
"""The C interface of the built object, shim/nvmx.h, in the terms of ctypes.

A test compares both. Functions that nvmx.h marks as guarded go through nvmx_call() alone, which
`nvmxfuzz.targets.kvm_native.library` does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

SITES: Final = 8
LINES: Final = 96
LINE: Final = 192

_U32: Final = ctypes.c_uint32
_U64: Final = ctypes.c_uint64
_INT: Final = ctypes.c_int
_POINTER: Final = ctypes.c_void_p
"""Of an argument: takes an address, bytes, an array, byref() of a structure, or None."""
_ADDRESS: Final = ctypes.c_uint64
"""Of a result: always an int."""

Prototype: TypeAlias = tuple[Any, tuple[Any, ...]]
"""The ctypes of the result and of the arguments."""

RETURNED: Final = 0
STATUS_NAMES: Final = (
    "returned",
    "bug",
    "unresolved",
    "signal",
    "steps",
    "time",
    "heap",
    "full",
    "port",
)
"""enum nvmx_status, by number."""


class Site(ctypes.Structure):
    """struct nvmx_site. The strings are constants of the object: their addresses name them."""

    _fields_ = (
        ("text", _POINTER),
        ("where", _POINTER),
        ("line", _U32),
        ("code", _U32),
    )


class Result(ctypes.Structure):
    """struct nvmx_result."""

    _fields_ = (
        ("value", ctypes.c_int64),
        ("status", _U32),
        ("signal", _U32),
        ("fault_address", _U64),
        ("fault_offset", _U64),
        ("caller_offset", _U64),
        ("steps", _U32),
        ("warnings", _U32),
        ("checks", _U32),
        ("lines", _U32),
        ("unknown_msrs", _U32),
        ("unknown_msr", _U32),
        ("message", ctypes.c_char * 256),
        ("warning", Site * SITES),
        ("check", Site * SITES),
        ("log", ctypes.c_char * LINE * LINES),
    )


class Msr(ctypes.Structure):
    """struct nvmx_msr."""

    _fields_ = (("index", _U32), ("reserved", _U32), ("value", _U64))


class Cpuid(ctypes.Structure):
    """struct nvmx_cpuid."""

    _fields_ = tuple((name, _U32) for name in ("leaf", "subleaf", "eax", "ebx", "ecx", "edx"))


class Entry(ctypes.Structure):
    """struct nvmx_entry: one VM entry that KVM asks the hardware port for."""

    _fields_ = (
        ("vmcs", _POINTER),
        ("registers", ctypes.POINTER(_U64)),
        ("flags", _U32),
        ("number", _U32),
    )


class Write(ctypes.Structure):
    """struct nvmx_write."""

    _fields_ = (("field", _U32), ("reserved", _U32), ("value", _U64))


class Action(ctypes.Structure):
    """struct nvmx_action: one entry of a script."""

    _fields_ = (
        ("vmfail", _U32),
        ("error", _U32),
        ("writes", _U32),
        ("registers", _U32),
        ("write", Write * 12),
        ("value", _U64 * 16),
    )


class Seen(ctypes.Structure):
    """struct nvmx_seen: what a script's entry found."""

    _fields_ = (
        ("vmcs", _POINTER),
        ("rip", _U64),
        ("rflags", _U64),
        ("flags", _U32),
        ("entry_controls", _U32),
    )


class Place(ctypes.Structure):
    """struct nvmx_place."""

    _fields_ = (
        ("field", _U32),
        ("at", ctypes.c_uint16),
        ("size", ctypes.c_uint8),
        ("rotated", ctypes.c_uint8),
    )


class Function(ctypes.Structure):
    """struct nvmx_function: a processor that is a function of this process."""

    _fields_ = (
        ("enter", _POINTER),
        ("state", _POINTER),
        ("instruction", _POINTER * 2),
        ("places", _POINTER),
        ("end", _POINTER),
        ("error", _POINTER),
        ("stamp", _POINTER),
        *(
            (name, _U32)
            for name in ("count", "size", "launch_state", "returned", "entered", "exited")
        ),
        ("harmless", _U32),
        ("faulted", _U32),
    )


class Around(ctypes.Structure):
    """struct nvmx_around."""

    _fields_ = (("count", _U64), ("word", _U64 * 64))


class Config(ctypes.Structure):
    """struct nvmx_config."""

    _fields_ = (
        ("error", ctypes.c_int64),
        ("pin_based_exec_ctrl", _U64),
        ("cpu_based_exec_ctrl", _U64),
        ("cpu_based_2nd_exec_ctrl", _U64),
        ("cpu_based_3rd_exec_ctrl", _U64),
        ("vmexit_ctrl", _U64),
        ("vmentry_ctrl", _U64),
        ("ept", _U64),
        ("vpid", _U64),
        ("basic", _U64),
        ("misc", _U64),
    )


class Verdict(ctypes.Structure):
    """struct nvmx_verdict."""

    _fields_ = (("stage", _U32), ("code", _U32), ("text", _POINTER), ("where", _POINTER))


class L1(ctypes.Structure):
    """struct nvmx_l1."""

    _fields_ = (
        ("cr0", _U64),
        ("cr3", _U64),
        ("cr4", _U64),
        ("efer", _U64),
        ("rflags", _U64),
        ("vmxon_pointer", _U64),
        ("current_vmcs", _U64),
        ("cpl", _U32),
        ("cs_l", _U32),
        ("interruptibility", _U32),
        ("reserved", _U32),
    )


class Loop(ctypes.Structure):
    """struct nvmx_loop."""

    _fields_ = (("vcpu", _POINTER), ("below", _POINTER), ("ran", _POINTER), ("file", _U64))


class Ran(ctypes.Structure):
    """struct nvmx_ran."""

    _fields_ = (
        ("value", ctypes.c_int32),
        ("in_l2", _U32),
        ("rflags", _U64),
        ("rip", _U64),
        ("instruction_error", _U32),
        ("exit_reason", _U32),
        ("exit_qualification", _U64),
        ("requests", _U64),
        ("exception", _U32),
        ("mp_state", _U32),
        ("launch_state", _U32),
        ("exit_to_user", _U32),
        ("text", _POINTER),
        ("where", _POINTER),
    )


EDITS: Final = 3


class Field(ctypes.Structure):
    """struct nvmx_field: one that a burst edits."""

    _fields_ = (
        ("slot", ctypes.c_uint16),
        ("at12", ctypes.c_uint16),
        ("at", ctypes.c_uint16),
        ("size", ctypes.c_uint8),
        ("rotated", ctypes.c_uint8),
        ("first", _U32),
        ("values", _U32),
    )


class Edit(ctypes.Structure):
    """struct nvmx_edit."""

    _fields_ = (("field", _U32), ("reserved", _U32), ("value", _U64))


class Outcome(ctypes.Structure):
    """struct nvmx_outcome: how a VM entry ended."""

    _fields_ = (("kind", _U32), ("number", _U32), ("qualification", _U64))


class Told(ctypes.Structure):
    """struct nvmx_told: a neighbour that is told of."""

    _fields_ = (
        ("edits", _U32),
        ("reasons", _U32),
        ("edit", Edit * EDITS),
        ("kvm", Outcome),
        ("alone", Outcome),
    )


class Known(ctypes.Structure):
    """struct nvmx_known."""

    _fields_ = (("key", _U64), ("count", _U64))


class Piece(ctypes.Structure):
    """struct nvmx_piece."""

    _fields_ = (("at", _POINTER), ("data", _POINTER), ("size", _U64))


class Burst(ctypes.Structure):
    """struct nvmx_burst."""

    _fields_ = (
        *((name, _POINTER) for name in ("loop", "l1", "vmcs12", "piece")),
        ("snapshot", ctypes.c_int32),
        ("launch", ctypes.c_int32),
        ("vmcs12_size", _U32),
        ("pieces", _U32),
        ("alone", Function),
        *((name, _POINTER) for name in ("image", "forget", "field", "value")),
        ("fields", _U32),
        ("count", _U32),
        ("seed", _U64),
        *((name, _POINTER) for name in ("known", "edges")),
        *((name, _U32) for name in ("knowns", "first_edge", "last_edge", "reserved0")),
        *((name, _POINTER) for name in ("input", "input_size", "told")),
        *((name, _U32) for name in ("input_head", "tolds", "entries", "compared", "different")),
        ("reserved", _U32),
    )


Port: Final = ctypes.PYFUNCTYPE(_INT, ctypes.POINTER(Entry))
"""nvmx_port. PYFUNCTYPE: calls hold the lock of the interpreter all the way."""


class Below(ctypes.Structure):
    """struct nvmx_below."""

    _fields_ = (
        ("otherwise", Port),
        ("function", Function),
        ("stamp", _U64),
        ("around", Around),
        ("guest", Action),
        ("later", Action * 8),
    )


PROTOTYPES: Final[Mapping[str, Prototype]] = MappingProxyType(
    {
        "nvmx_install_signal_handlers": (None, ()),
        "nvmx_forget_once": (None, ()),
        "nvmx_refuse_memory": (None, (_U32,)),
        "nvmx_snapshot": (_INT, ()),
        "nvmx_restore": (_INT, (_INT,)),
        "nvmx_round_heap": (None, ()),
        "nvmx_passes_faults_to": (_INT, (_POINTER,)),
        "nvmx_discard": (None, (_INT,)),
        "nvmx_heap_used": (_U64, ()),
        "nvmx_set_msrs": (None, (_POINTER, _U32)),
        "nvmx_set_msr": (None, (_U32, _U64)),
        "nvmx_get_msr": (_INT, (_U32, ctypes.POINTER(_U64))),
        "nvmx_set_cpuid": (None, (_POINTER, _U32)),
        "nvmx_get_cr": (_U64, (_INT,)),
        "nvmx_set_cr": (None, (_INT, _U64)),
        "nvmx_get_dr": (_U64, (_INT,)),
        "nvmx_set_dr": (None, (_INT, _U64)),
        "nvmx_get_rflags_if": (_U64, ()),
        "nvmx_set_rflags_if": (None, (_INT,)),
        "nvmx_set_tsc": (None, (_U64,)),
        "nvmx_set_hyperv_evmcs": (_INT, (_INT,)),
        "nvmx_set_port": (None, (_POINTER,)),
        "nvmx_set_script": (_INT, (_POINTER, _U32)),
        "nvmx_set_signalled_script": (_INT, (_POINTER, _U32, _U32)),
        "nvmx_script_seen": (_U32, (_POINTER,)),
        "nvmx_vmcs_read": (_U64, (_POINTER, _U32)),
        "nvmx_vmcs_write": (None, (_POINTER, _U32, _U64)),
        "nvmx_vmcs_read_many": (None, (_POINTER, _POINTER, _POINTER, _U32)),
        "nvmx_physical": (_ADDRESS, (_U64, _U64)),
        "nvmx_load_host_state": (None, (_POINTER,)),
        "nvmx_set_below": (None, (_POINTER,)),
        "nvmx_run_burst": (_INT, (_POINTER,)),
        "nvmx_kernel_version": (_INT, ()),
        "nvmx_parameter": (
            ctypes.c_char_p,
            (_INT, ctypes.POINTER(_POINTER), ctypes.POINTER(_INT)),
        ),
        "nvmx_vcpu": (_ADDRESS, (_INT,)),
        "nvmx_kvm_run": (_ADDRESS, (_POINTER,)),
        "nvmx_vmcs12_size": (_INT, ()),
        "nvmx_vmcs12_offset": (_INT, (_U32,)),
        "nvmx_cached_vmcs12": (_ADDRESS, (_POINTER,)),
        "nvmx_is_guest_mode": (_INT, (_POINTER,)),
        "nvmx_emulated": (_U64, (_POINTER,)),
        "nvmx_emulation_required": (_INT, (_POINTER,)),
        "nvmx_vmcs": (_ADDRESS, (_POINTER, _INT)),
        "nvmx_counters": (
            _U64,
            (ctypes.POINTER(ctypes.POINTER(ctypes.c_ubyte)), ctypes.POINTER(_POINTER)),
        ),
        "nvmx_gcov_dump": (None, ()),
    }
)
"""Functions that run no kernel code, or none that can fail."""

GUARDED: Final[Mapping[str, Prototype]] = MappingProxyType(
    {
        "nvmx_init_cpu": (_INT, (_U32, _U32, _U32)),
        "nvmx_insmod": (_INT, ()),
        "nvmx_rmmod": (_INT, ()),
        "nvmx_guest_ram": (_ADDRESS, (_U64,)),
        "nvmx_open_kvm": (_INT, ()),
        "nvmx_close": (_INT, (_INT,)),
        "nvmx_check_heap": (_INT, ()),
        "nvmx_ioctl": (ctypes.c_int64, (_INT, _U32, _POINTER)),
        "nvmx_setup_vmcs_config": (_INT, (_POINTER,)),
        "nvmx_check_controls": (_INT, (_POINTER, _POINTER)),
        "nvmx_check_address_space_size": (_INT, (_POINTER, _POINTER)),
        "nvmx_check_host_state": (_INT, (_POINTER, _POINTER)),
        "nvmx_check_guest_state": (_INT, (_POINTER, _POINTER, _POINTER)),
        "nvmx_check": (_INT, (_POINTER, _POINTER, _POINTER)),
        "nvmx_check_batch": (_U64, (_POINTER, _POINTER, _U64, _POINTER)),
        "nvmx_run": (_INT, (_POINTER, _POINTER, _INT, _POINTER)),
        "nvmx_run_l2": (_INT, (_POINTER, _INT, _POINTER)),
        "nvmx_run_loop": (_INT, (_POINTER, _POINTER, _POINTER, _INT)),
        "nvmx_reset_l1": (_INT, (_POINTER, _POINTER)),
        "nvmx_run_batch": (_U64, (_POINTER, _POINTER, _U64, _POINTER, _POINTER)),
        "nvmx_set_vmx_msr": (_INT, (_POINTER, _U32, _U64)),
        "nvmx_get_vmx_msr": (_INT, (_POINTER, _U32, _POINTER)),
        "nvmx_selftest": (_INT, (_U32,)),
    }
)
"""Functions that run kernel code: to be called through nvmx_call() alone."""
