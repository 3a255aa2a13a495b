# SPDX-License-Identifier: GPL-2.0-only
"""The structures of KVM's user interface on x86, in the terms of ctypes.

Names are those of the kernel's <linux/kvm.h> and <asm/kvm.h>, whose API documentation says what
each field means. Structures that end in an array of any length have a function that makes them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

_U8: Final = ctypes.c_uint8
_U16: Final = ctypes.c_uint16
_U32: Final = ctypes.c_uint32
_U64: Final = ctypes.c_uint64

VMCS_SIZE: Final = 0x1000
"""KVM_STATE_NESTED_VMX_VMCS_SIZE."""

NESTED_GUEST_MODE: Final = 1 << 0
NESTED_RUN_PENDING: Final = 1 << 1
NESTED_EVMCS: Final = 1 << 2
NESTED_MTF_PENDING: Final = 1 << 3
"""Flags of `NestedState`, without KVM_STATE_."""

NESTED_SMM_GUEST_MODE: Final = 1 << 0
NESTED_SMM_VMXON: Final = 1 << 1
"""`smm_flags` of `NestedState`, without KVM_STATE_."""

NO_ADDRESS: Final = 0xFFFF_FFFF_FFFF_FFFF
"""INVALID_GPA: as `vmxon_pa` no VMXON, as `vmcs12_pa` no current VMCS."""

SREGS2_PDPTRS_VALID: Final = 1
"""KVM_SREGS2_FLAGS_PDPTRS_VALID."""

Fields: TypeAlias = tuple[tuple[str, Any], ...]


def _all(names: str, kind: Any) -> Fields:  # noqa: ANN401 # ctypes has no public type for types
    return tuple((name, kind) for name in names.split())


class _Plain(ctypes.Structure):
    """A structure that is told by the values of its fields."""

    def values(self) -> dict[str, Any]:
        """Return the fields by name; nested structures as dictionaries, arrays as tuples."""
        return {name: _plain(getattr(self, name)) for name, *_ in self._fields_}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and bytes(self) == bytes(other)

    __hash__ = None  # type: ignore[assignment] # it can change

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.values().items())
        return f"{type(self).__name__}({fields})"


def _plain(value: Any) -> Any:  # noqa: ANN401 # whatever a field of a structure can hold
    if isinstance(value, _Plain):
        return value.values()
    if isinstance(value, ctypes.Array):
        return tuple(_plain(item) for item in value)
    return value


class Regs(_Plain):
    """struct kvm_regs."""

    _fields_ = _all(
        "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags", _U64
    )


class Segment(_Plain):
    """struct kvm_segment."""

    _fields_ = (
        ("base", _U64),
        ("limit", _U32),
        ("selector", _U16),
        *_all("type present dpl db s l g avl unusable padding", _U8),
    )


class DescriptorTable(_Plain):
    """struct kvm_dtable."""

    _fields_ = (("base", _U64), ("limit", _U16), ("padding", _U16 * 3))


_SREGS: Final[Fields] = (
    *_all("cs ds es fs gs ss tr ldt", Segment),
    *_all("gdt idt", DescriptorTable),
    *_all("cr0 cr2 cr3 cr4 cr8 efer apic_base", _U64),
)


class Sregs(_Plain):
    """struct kvm_sregs."""

    _fields_ = (*_SREGS, ("interrupt_bitmap", _U64 * 4))


class Sregs2(_Plain):
    """struct kvm_sregs2: the PDPTEs instead of interrupts."""

    _fields_ = (*_SREGS, ("flags", _U64), ("pdptrs", _U64 * 4))


class ExceptionEvent(_Plain):
    """The exception of struct kvm_vcpu_events."""

    _fields_ = (*_all("injected nr has_error_code pending", _U8), ("error_code", _U32))


class InterruptEvent(_Plain):
    """The interrupt of struct kvm_vcpu_events."""

    _fields_ = _all("injected nr soft shadow", _U8)


class NmiEvent(_Plain):
    """The NMI of struct kvm_vcpu_events."""

    _fields_ = _all("injected pending masked pad", _U8)


class SmiEvent(_Plain):
    """The SMI of struct kvm_vcpu_events."""

    _fields_ = _all("smm pending smm_inside_nmi latched_init", _U8)


class VcpuEvents(_Plain):
    """struct kvm_vcpu_events."""

    _fields_ = (
        ("exception", ExceptionEvent),
        ("interrupt", InterruptEvent),
        ("nmi", NmiEvent),
        ("sipi_vector", _U32),
        ("flags", _U32),
        ("smi", SmiEvent),
        ("triple_fault_pending", _U8),
        ("reserved", _U8 * 26),
        ("exception_has_payload", _U8),
        ("exception_payload", _U64),
    )


class MpState(_Plain):
    """struct kvm_mp_state."""

    _fields_ = (("mp_state", _U32),)


class MsrEntry(_Plain):
    """struct kvm_msr_entry."""

    _fields_ = (("index", _U32), ("reserved", _U32), ("data", _U64))


class CpuidEntry(_Plain):
    """struct kvm_cpuid_entry2."""

    _fields_ = (*_all("function index flags eax ebx ecx edx", _U32), ("padding", _U32 * 3))


class MemoryRegion(_Plain):
    """struct kvm_userspace_memory_region."""

    _fields_ = (
        *_all("slot flags", _U32),
        *_all("guest_phys_addr memory_size userspace_addr", _U64),
    )


class Msi(_Plain):
    """struct kvm_msi."""

    _fields_ = (*_all("address_lo address_hi data flags devid", _U32), ("pad", _U8 * 12))


class EnableCap(_Plain):
    """struct kvm_enable_cap."""

    _fields_ = (*_all("cap flags", _U32), ("args", _U64 * 4), ("pad", _U8 * 64))


class NestedState(_Plain):
    """struct kvm_nested_state with the header and both VMCSs of VMX."""

    _fields_ = (
        *_all("flags format", _U16),
        ("size", _U32),
        *_all("vmxon_pa vmcs12_pa", _U64),
        *_all("smm_flags pad", _U16),
        ("vmx_flags", _U32),
        ("preemption_timer_deadline", _U64),
        ("reserved", _U8 * 88),
        ("vmcs12", _U8 * VMCS_SIZE),
        ("shadow_vmcs12", _U8 * VMCS_SIZE),
    )


NESTED_HEADER_SIZE: Final[int] = NestedState.vmcs12.offset
"""Size of struct kvm_nested_state in the number of its ioctls: without the VMCSs."""


class RunHead(_Plain):
    """The start of struct kvm_run, and as many words of what the exit reason tells."""

    _fields_ = (
        *_all("request_interrupt_window immediate_exit", _U8),
        ("padding1", _U8 * 6),
        ("exit_reason", _U32),
        *_all("ready_for_interrupt_injection if_flag", _U8),
        ("flags", _U16),
        *_all("cr8 apic_base", _U64),
        ("words", _U64 * 32),
    )


def counted(kind: type[_Plain], items: Sequence[_Plain], room: int = 0) -> Any:  # noqa: ANN401
    """Return {count, pad, items}, the shape of struct kvm_msrs and struct kvm_cpuid2.

    There is room for at least `room` items; those beyond `items` are zero and count.
    """
    size = max(len(items), room)
    return _counted_type(kind, size)(size, 0, (kind * size)(*items))


@lru_cache(maxsize=64)
def _counted_type(kind: type[_Plain], size: int) -> Any:  # noqa: ANN401
    class Counted(ctypes.Structure):
        _fields_ = (("count", _U32), ("pad", _U32), ("items", kind * size))

    return Counted


def index_list(room: int) -> Any:  # noqa: ANN401 # its type depends on the length
    """Return struct kvm_msr_list for `room` indices."""

    class MsrList(ctypes.Structure):
        _fields_ = (("count", _U32), ("indices", _U32 * room))

    return MsrList(room)
