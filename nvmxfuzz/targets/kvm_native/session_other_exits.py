# SPDX-License-Identifier: GPL-2.0-only
"""Further exits of L2 in a session, by name, as the processor makes them with vmcs02.

The qualification of a step is that of the exit where it has one of its own; of an instruction it
holds registers: ECX in its lower half, EAX in the upper one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from nvmxfuzz.arch.controls import Primary, Secondary
from nvmxfuzz.arch.events import EventType, Vector
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.registers import Cr0
from nvmxfuzz.targets.kvm_native.port import ENTRY_FAILURE, Answer, Exit
from nvmxfuzz.targets.kvm_native.session_exits import (
    exception,
    field_access,
    interruption,
    l2_exit,
    with_memory,
    without_operand,
)

_WORD: Final = (1 << 32) - 1
_PAGE: Final = 0xFFF
_ERROR_CODE: Final = 0x1F
"""Of a page fault: the bits that every processor with VMX has."""
_IO: Final = 0xFFFF_007F
"""Port, and what kind of access."""
_DELIVERED_VECTOR: Final = 0x40
_LENGTH: Final = 2

_INSTRUCTIONS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "invd": ExitReason.INVD,
        "rdpmc": ExitReason.RDPMC,
        "rdrand": ExitReason.RDRAND,
        "rdseed": ExitReason.RDSEED,
        "rdtsc": ExitReason.RDTSC,
        "rdtscp": ExitReason.RDTSCP,
        "mwait": ExitReason.MWAIT_INSTRUCTION,
        "monitor": ExitReason.MONITOR_INSTRUCTION,
        "pause": ExitReason.PAUSE_INSTRUCTION,
        "wbinvd": ExitReason.WBINVD,
        "xsetbv": ExitReason.XSETBV,
        "umwait": ExitReason.UMWAIT,
        "tpause": ExitReason.TPAUSE,
        "encls": ExitReason.ENCLS,
        "vmfunc": ExitReason.VMFUNC,
        "invpcid": ExitReason.INVPCID,
        "xsaves": ExitReason.XSAVES,
        "xrstors": ExitReason.XRSTORS,
        "gdtr-idtr": ExitReason.GDTR_IDTR,
        "ldtr-tr": ExitReason.LDTR_TR,
    }
)
_QUALIFIED: Final[Mapping[str, int]] = MappingProxyType(
    {
        "invlpg": ExitReason.INVLPG,
        "cr-access": ExitReason.CR_ACCESS,
        "dr-access": ExitReason.DR_ACCESS,
        "tpr-below-threshold": ExitReason.TPR_BELOW_THRESHOLD,
        "apic-write": ExitReason.APIC_WRITE,
        "eoi-induced": ExitReason.EOI_INDUCED,
        "notify": ExitReason.NOTIFY,
        "bus-lock": ExitReason.BUS_LOCK,
        "pml-full": ExitReason.PML_FULL,
    }
)
_MEMORY: Final = ("vmclear", "vmptrld", "vmptrst", "vmxon", "invvpid")
_PLAIN: Final = ("vmresume", "vmxoff")
_FAULTS: Final[Mapping[str, tuple[int, int | None]]] = MappingProxyType(
    {
        "exception-de": (Vector.DE, None),
        "exception-df": (Vector.DF, 0),
        "exception-ac": (Vector.AC, 0),
        "exception-ve": (Vector.VE, None),
    }
)
"""Vector and error code."""


def _event(kind: int, vector: int, *, error: bool = False) -> dict[str, int]:
    info = interruption(kind, vector, error=error)
    return {"idt_vectoring_info_field": info, **({"idt_vectoring_error_code": 0} if error else {})}


_DELIVERED: Final[Mapping[str, Callable[[], dict[str, int]]]] = MappingProxyType(
    {
        "nothing": dict,
        "fault": lambda: _event(EventType.HARDWARE_EXCEPTION, Vector.DE),
        "fault-with-code": lambda: _event(EventType.HARDWARE_EXCEPTION, Vector.GP, error=True),
        "trap": lambda: _event(EventType.SOFTWARE_EXCEPTION, Vector.BP),
        "nmi": lambda: _event(EventType.NMI, Vector.NMI),
        "interrupt": lambda: _event(EventType.EXTERNAL_INTERRUPT, _DELIVERED_VECTOR),
        "software-interrupt": lambda: _event(EventType.SOFTWARE_INTERRUPT, _DELIVERED_VECTOR),
    }
)


@lru_cache(maxsize=1024)
def l2_other_exit(name: str, qualification: int, delivered: str) -> Answer:
    """Return the exit that a step names."""
    answer = _exit(name, qualification)
    event = _DELIVERED[delivered]()
    if not event or not isinstance(answer, Exit):
        return answer
    return replace(answer, fields={**answer.fields, **event})


def _exit(name: str, q: int) -> Answer:
    if name in _INSTRUCTIONS:
        # VMFUNC of a function above 63 is #UD, and no exit.
        rax = q >> 32 & _MOST_FUNCTION if name == "vmfunc" else q >> 32
        registers = {"rcx": q & _WORD, "rax": rax, "rdx": 0}
        return Exit(_INSTRUCTIONS[name], length=_LENGTH, registers=registers)
    if name in _QUALIFIED:
        return Exit(_QUALIFIED[name], q, length=_LENGTH)
    if name in _MEMORY:
        return with_memory(name, "good", 0, 1)
    if name in _PLAIN:
        return without_operand(name)
    if name in _FAULTS:
        vector, error = _FAULTS[name]
        return exception(vector, error=error)
    match name:
        case "page-fault":
            return exception(Vector.PF, error=q & _ERROR_CODE, qualification=q & ~_PAGE)
        case "exception-bp":
            info = interruption(EventType.SOFTWARE_EXCEPTION, Vector.BP)
            return Exit(ExitReason.EXCEPTION_NMI, length=1, fields={"vm_exit_intr_info": info})
        case "vmwrite":
            return field_access("vmwrite", "guest_rip", q)
        case "io":
            return Exit(ExitReason.IO_INSTRUCTION, q & _IO, length=_LENGTH)
        case "machine-check-on-entry":
            return Exit(ExitReason.MCE_DURING_VMENTRY | ENTRY_FAILURE)
    return l2_exit(name, q)


_MOST_FUNCTION: Final = 63
_SECONDARY: Final = "secondary_vm_exec_control"
_PRIMARY: Final = "cpu_based_vm_exec_control"
_BITMAP: Final = "exception_bitmap"

OTHER_NEEDS: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        "page-fault": (_BITMAP, 1 << Vector.PF),
        "exception-de": (_BITMAP, 1 << Vector.DE),
        "exception-bp": (_BITMAP, 1 << Vector.BP),
        "exception-df": (_BITMAP, 1 << Vector.DF),
        "exception-ac": (_BITMAP, 1 << Vector.AC),
        "exception-ve": (_SECONDARY, Secondary.EPT_VIOLATION_VE),
        "invlpg": (_PRIMARY, Primary.INVLPG_EXITING),
        "rdpmc": (_PRIMARY, Primary.RDPMC_EXITING),
        "rdtsc": (_PRIMARY, Primary.RDTSC_EXITING),
        "rdtscp": (_PRIMARY, Primary.RDTSC_EXITING),
        "dr-access": (_PRIMARY, Primary.MOV_DR_EXITING),
        "mwait": (_PRIMARY, Primary.MWAIT_EXITING),
        "monitor": (_PRIMARY, Primary.MONITOR_EXITING),
        "tpr-below-threshold": (_PRIMARY, Primary.USE_TPR_SHADOW),
        "rdrand": (_SECONDARY, Secondary.RDRAND_EXITING),
        "rdseed": (_SECONDARY, Secondary.RDSEED_EXITING),
        "gdtr-idtr": (_SECONDARY, Secondary.DESCRIPTOR_TABLE_EXITING),
        "ldtr-tr": (_SECONDARY, Secondary.DESCRIPTOR_TABLE_EXITING),
        "apic-write": (_SECONDARY, Secondary.APIC_REGISTER_VIRTUALIZATION),
        "eoi-induced": (_SECONDARY, Secondary.VIRTUAL_INTERRUPT_DELIVERY),
        "invpcid": (_SECONDARY, Secondary.ENABLE_INVPCID),
        "wbinvd": (_SECONDARY, Secondary.WBINVD_EXITING),
        "xsaves": (_SECONDARY, Secondary.ENABLE_XSAVES_XRSTORS),
        "xrstors": (_SECONDARY, Secondary.ENABLE_XSAVES_XRSTORS),
        "umwait": (_SECONDARY, Secondary.ENABLE_USER_WAIT_AND_PAUSE),
        "tpause": (_SECONDARY, Secondary.ENABLE_USER_WAIT_AND_PAUSE),
        "encls": (_SECONDARY, Secondary.ENABLE_ENCLS_EXITING),
        "notify": (_SECONDARY, Secondary.INSTRUCTION_TIMEOUT),
        "bus-lock": (_SECONDARY, Secondary.VMM_BUS_LOCK_DETECTION),
        "pml-full": (_SECONDARY, Secondary.ENABLE_PML),
        "vmfunc": (_SECONDARY, Secondary.ENABLE_VM_FUNCTIONS),
        "ept-violation": (_SECONDARY, Secondary.ENABLE_EPT),
        "ept-misconfiguration": (_SECONDARY, Secondary.ENABLE_EPT),
    }
)
"""What the processor must have been told by the current VMCS, or it makes no such exit."""

_CR0_MASK: Final = "cr0_guest_host_mask"
_CR_CONTROLS: Final[Mapping[int, int]] = MappingProxyType(
    {
        0x03: Primary.CR3_LOAD_EXITING,
        0x13: Primary.CR3_STORE_EXITING,
        0x08: Primary.CR8_LOAD_EXITING,
        0x18: Primary.CR8_STORE_EXITING,
    }
)
_CLTS: Final = 0x20
_LMSW: Final = 0x30
_LMSW_SOURCE: Final = 16
_KIND_OF_ACCESS: Final = 0x3F
_ACCESS_TYPE: Final = 0x30


def cr_access_needs(qualification: int) -> tuple[str, int]:
    """Return what an access to a control register needs to exit.

    CLTS and LMSW do if a bit that they would change is not the guest's; here that is TS of CLTS,
    and the bits that LMSW sets. What no control makes exit needs a bit that there is not.
    """
    kind = qualification & _KIND_OF_ACCESS
    if kind & _ACCESS_TYPE == _CLTS:
        return _CR0_MASK, Cr0.TS
    if kind & _ACCESS_TYPE == _LMSW:
        return _CR0_MASK, qualification >> _LMSW_SOURCE & (Cr0.PE | Cr0.MP | Cr0.EM | Cr0.TS)
    return _PRIMARY, _CR_CONTROLS.get(kind, 0)
