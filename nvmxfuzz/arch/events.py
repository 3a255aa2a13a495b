# SPDX-License-Identifier: GPL-2.0-only
"""Events: what VM entry can inject, and the guest's non-register state that lets it.

SDM: "VM-Entry Controls for Event Injection" and "Guest Non-Register State".
"""

from nvmxfuzz.arch.bits import Bit, Named, bit, mask


class EventType:
    """Event types, bits 10:8 of an interruption-information field, as numbers 0 to 7."""

    EXTERNAL_INTERRUPT = Named(0, "external interrupt", "INTR_TYPE_EXT_INTR")
    RESERVED = Named(1, "reserved", "INTR_TYPE_RESERVED")
    NMI = Named(2, "non-maskable interrupt (NMI)", "INTR_TYPE_NMI_INTR")
    HARDWARE_EXCEPTION = Named(3, "hardware exception", "INTR_TYPE_HARD_EXCEPTION")
    SOFTWARE_INTERRUPT = Named(4, "software interrupt", "INTR_TYPE_SOFT_INTR")
    PRIVILEGED_SOFTWARE_EXCEPTION = Named(
        5, "privileged software exception", "INTR_TYPE_PRIV_SW_EXCEPTION"
    )
    SOFTWARE_EXCEPTION = Named(6, "software exception", "INTR_TYPE_SOFT_EXCEPTION")
    OTHER_EVENT = Named(7, "other event", "INTR_TYPE_OTHER_EVENT")


class OtherEvent:
    """Vectors of the event type "other event"; the last two exist only with FRED transitions."""

    PENDING_MTF_VM_EXIT = Named(0, "pending MTF VM exit")
    SYSCALL = Named(1, "SYSCALL")
    SYSENTER = Named(2, "SYSENTER")


class InterruptionInfo:
    """Interruption information, 32 bits (in recent editions: event identification).

    The same layout serves VM entry (injected event), VM exit (exiting event) and IDT vectoring
    (original event); NMI_UNBLOCKING is defined for VM exits only and reserved for VM entry.
    """

    VECTOR = mask(7, 0, "vector", "INTR_INFO_VECTOR_MASK")
    TYPE = mask(10, 8, "event type", "INTR_INFO_INTR_TYPE_MASK")
    DELIVER_ERROR_CODE = bit(11, "deliver error code", "INTR_INFO_DELIVER_CODE_MASK")
    NMI_UNBLOCKING = bit(12, "NMI unblocking due to IRET", "INTR_INFO_UNBLOCK_NMI")
    NESTED_EXCEPTION = bit(13, "nested exception")
    VALID = bit(31, "valid", "INTR_INFO_VALID_MASK")
    # For VM entry; without NESTED_EXCEPTION, which is reserved unless IA32_VMX_BASIC[58] is 1.
    RESERVED = Bit(0x7FFF_D000, "reserved for VM entry")


class Interruptibility:
    """Guest interruptibility state, 32 bits."""

    BLOCKING_BY_STI = bit(0, "blocking by STI", "GUEST_INTR_STATE_STI")
    BLOCKING_BY_MOV_SS = bit(1, "blocking by MOV SS", "GUEST_INTR_STATE_MOV_SS")
    BLOCKING_BY_SMI = bit(2, "blocking by SMI", "GUEST_INTR_STATE_SMI")
    BLOCKING_BY_NMI = bit(3, "blocking by NMI", "GUEST_INTR_STATE_NMI")
    ENCLAVE_INTERRUPTION = bit(4, "enclave interruption", "GUEST_INTR_STATE_ENCLAVE_INTR")
    RESERVED = Bit(0xFFFF_FFE0, "reserved")


class Activity:
    """Guest activity states, as numbers."""

    ACTIVE = Named(0, "active", "GUEST_ACTIVITY_ACTIVE")
    HLT = Named(1, "HLT", "GUEST_ACTIVITY_HLT")
    SHUTDOWN = Named(2, "shutdown", "GUEST_ACTIVITY_SHUTDOWN")
    WAIT_FOR_SIPI = Named(3, "wait-for-SIPI", "GUEST_ACTIVITY_WAIT_SIPI")


class PendingDebug:
    """Guest pending debug exceptions, 64 bits."""

    B0 = bit(0, "breakpoint 0 met")
    B1 = bit(1, "breakpoint 1 met")
    B2 = bit(2, "breakpoint 2 met")
    B3 = bit(3, "breakpoint 3 met")
    BLD = bit(11, "bus lock in software")
    ENABLED_BREAKPOINT = bit(12, "enabled breakpoint")
    BS = bit(14, "single step")
    RTM = bit(16, "debug exception inside an RTM region")
    RESERVED = Bit(0xFFFF_FFFF_FFFE_A7F0, "reserved")


class Vector:
    """Vectors of the exceptions of the processor, and whether they push an error code.

    SDM: "Exception and Interrupt Reference".
    """

    DE = Named(0, "divide error", "X86_TRAP_DE")
    DB = Named(1, "debug exception", "X86_TRAP_DB")
    NMI = Named(2, "NMI", "X86_TRAP_NMI")
    BP = Named(3, "breakpoint", "X86_TRAP_BP")
    OF = Named(4, "overflow", "X86_TRAP_OF")
    BR = Named(5, "BOUND range exceeded", "X86_TRAP_BR")
    UD = Named(6, "invalid opcode", "X86_TRAP_UD")
    NM = Named(7, "device not available", "X86_TRAP_NM")
    DF = Named(8, "double fault", "X86_TRAP_DF")
    TS = Named(10, "invalid TSS", "X86_TRAP_TS")
    NP = Named(11, "segment not present", "X86_TRAP_NP")
    SS = Named(12, "stack-segment fault", "X86_TRAP_SS")
    GP = Named(13, "general protection", "X86_TRAP_GP")
    PF = Named(14, "page fault", "X86_TRAP_PF")
    MF = Named(16, "x87 FPU floating-point error", "X86_TRAP_MF")
    AC = Named(17, "alignment check", "X86_TRAP_AC")
    MC = Named(18, "machine check", "X86_TRAP_MC")
    XM = Named(19, "SIMD floating-point exception", "X86_TRAP_XF")
    VE = Named(20, "virtualization exception", "X86_TRAP_VE")
    CP = Named(21, "control-protection exception", "X86_TRAP_CP")


# As a bitmap over the vectors. #CP pushes one too, where the processor supports CET.
VECTORS_WITH_ERROR_CODE = (
    1 << Vector.DF
    | 1 << Vector.TS
    | 1 << Vector.NP
    | 1 << Vector.SS
    | 1 << Vector.GP
    | 1 << Vector.PF
    | 1 << Vector.AC
)
