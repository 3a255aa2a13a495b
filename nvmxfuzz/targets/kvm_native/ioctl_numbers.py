# SPDX-License-Identifier: GPL-2.0-only
"""The ioctl commands, capabilities and exit reasons of KVM that the project uses.

Names are those of the kernel's <linux/kvm.h>.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from nvmxfuzz.targets.kvm_native import structures as s

_KVMIO: Final = 0xAE
_WRITE: Final = 1
_READ: Final = 2


def _command(direction: int, number: int, size: int = 0) -> int:
    return direction << 30 | size << 16 | _KVMIO << 8 | number


def _in(number: int, kind: Any) -> int:  # noqa: ANN401 # ctypes has no public type for types
    return _command(_WRITE, number, ctypes.sizeof(kind))


def _out(number: int, kind: Any) -> int:  # noqa: ANN401
    return _command(_READ, number, ctypes.sizeof(kind))


def _both(number: int, size: int) -> int:
    return _command(_READ | _WRITE, number, size)


_COUNTED: Final = 8
"""Size of struct kvm_msrs and struct kvm_cpuid2 without their entries."""

LAPIC_SIZE: Final = 0x400
"""Of struct kvm_lapic_state."""

# of /dev/kvm
KVM_GET_API_VERSION: Final = _command(0, 0x00)
KVM_CREATE_VM: Final = _command(0, 0x01)
KVM_GET_MSR_INDEX_LIST: Final = _both(0x02, 4)
KVM_CHECK_EXTENSION: Final = _command(0, 0x03)
KVM_GET_VCPU_MMAP_SIZE: Final = _command(0, 0x04)
KVM_GET_SUPPORTED_CPUID: Final = _both(0x05, _COUNTED)
KVM_GET_MSR_FEATURE_INDEX_LIST: Final = _both(0x0A, 4)

# of a VM
KVM_CREATE_VCPU: Final = _command(0, 0x41)
KVM_SET_USER_MEMORY_REGION: Final = _in(0x46, s.MemoryRegion)
KVM_SET_TSS_ADDR: Final = _command(0, 0x47)
KVM_CREATE_IRQCHIP: Final = _command(0, 0x60)

# of a vCPU; KVM_GET_MSRS also of /dev/kvm
KVM_RUN: Final = _command(0, 0x80)
KVM_GET_REGS: Final = _out(0x81, s.Regs)
KVM_SET_REGS: Final = _in(0x82, s.Regs)
KVM_GET_SREGS: Final = _out(0x83, s.Sregs)
KVM_SET_SREGS: Final = _in(0x84, s.Sregs)
KVM_GET_MSRS: Final = _both(0x88, _COUNTED)
KVM_SET_MSRS: Final = _command(_WRITE, 0x89, _COUNTED)
KVM_GET_LAPIC: Final = _command(_READ, 0x8E, LAPIC_SIZE)
KVM_SET_LAPIC: Final = _command(_WRITE, 0x8F, LAPIC_SIZE)
KVM_SET_CPUID2: Final = _command(_WRITE, 0x90, _COUNTED)
KVM_GET_CPUID2: Final = _both(0x91, _COUNTED)
KVM_GET_MP_STATE: Final = _out(0x98, s.MpState)
KVM_SET_MP_STATE: Final = _in(0x99, s.MpState)
KVM_NMI: Final = _command(0, 0x9A)
KVM_GET_VCPU_EVENTS: Final = _out(0x9F, s.VcpuEvents)
KVM_SET_VCPU_EVENTS: Final = _in(0xA0, s.VcpuEvents)
KVM_SIGNAL_MSI: Final = _in(0xA5, s.Msi)
KVM_ENABLE_CAP: Final = _in(0xA3, s.EnableCap)
KVM_SMI: Final = _command(0, 0xB7)
KVM_GET_NESTED_STATE: Final = _both(0xBE, s.NESTED_HEADER_SIZE)
KVM_SET_NESTED_STATE: Final = _command(_WRITE, 0xBF, s.NESTED_HEADER_SIZE)
KVM_GET_SREGS2: Final = _out(0xCC, s.Sregs2)
KVM_SET_SREGS2: Final = _in(0xCD, s.Sregs2)

NAMES: Final[Mapping[int, str]] = MappingProxyType(
    {value: name for name, value in tuple(globals().items()) if name.startswith("KVM_")}
)
"""The commands above, by number."""

READING: Final = frozenset(value for value, name in NAMES.items() if name.startswith("KVM_GET_"))
"""Those that change nothing."""

KVM_CAP_NESTED_STATE: Final = 157
KVM_CAP_HYPERV_ENLIGHTENED_VMCS: Final = 163
KVM_CAP_X86_SMM: Final = 117
KVM_CAP_MULTI_ADDRESS_SPACE: Final = 118
KVM_CAP_EXCEPTION_PAYLOAD: Final = 164
KVM_CAP_X86_TRIPLE_FAULT_EVENT: Final = 218
KVM_CAP_SREGS2: Final = 200

EXIT_REASONS: Final[Mapping[int, str]] = MappingProxyType(
    {
        0: "unknown",
        1: "exception",
        2: "io",
        3: "hypercall",
        4: "debug",
        5: "hlt",
        6: "mmio",
        7: "irq-window-open",
        8: "shutdown",
        9: "fail-entry",
        10: "intr",
        11: "set-tpr",
        12: "tpr-access",
        16: "nmi",
        17: "internal-error",
        24: "system-event",
        27: "hyperv",
        29: "x86-rdmsr",
        30: "x86-wrmsr",
        33: "x86-bus-lock",
        37: "notify",
        39: "memory-fault",
    }
)
"""KVM_EXIT_ reasons of x86, the number by which KVM_RUN says why it returned."""

MP_RUNNABLE: Final = 0
MP_UNINITIALIZED: Final = 1
MP_INIT_RECEIVED: Final = 2
MP_HALTED: Final = 3
MP_SIPI_RECEIVED: Final = 4
"""KVM_MP_STATE_ values."""

MEMORY_READ_ONLY: Final = 1 << 1
MEMORY_LOG_DIRTY: Final = 1 << 0
"""KVM_MEM_ flags of a memory region."""

CPUID_SIGNIFICANT_INDEX: Final = 1 << 0
"""KVM_CPUID_FLAG_SIGNIFCANT_INDEX: the entry is for one value of ECX only."""

VCPU_EVENTS_NMI_PENDING: Final = 1 << 0
VCPU_EVENTS_SIPI_VECTOR: Final = 1 << 1
VCPU_EVENTS_SHADOW: Final = 1 << 2
VCPU_EVENTS_SMM: Final = 1 << 3
VCPU_EVENTS_PAYLOAD: Final = 1 << 4
VCPU_EVENTS_TRIPLE_FAULT: Final = 1 << 5
"""KVM_VCPUEVENT_VALID_ flags."""
