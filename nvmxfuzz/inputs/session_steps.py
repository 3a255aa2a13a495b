# SPDX-License-Identifier: GPL-2.0-only
"""What may happen in a session: steps over the vCPUs of a VM, and what each step takes.

A step is its kind, the vCPU and a number for each operand. `STEP_KINDS` says all there is to know
of a kind: bytes, TOML, mutations, strategies and printing follow from it. A number means what its
operand makes of it, so that any numbers are a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.inputs.vmcs_order import VMCS_ORDER
from nvmxfuzz.inputs.world import FEATURES

MOST_STEPS: Final = 64
"""What a session has at most."""

VCPUS: Final = 2

Actor: TypeAlias = Literal["l1", "l2", "userspace", "platform"]
"""Who does it: an instruction of L1, an exit of L2, an ioctl, or SMM, INIT and memory."""


@dataclass(frozen=True, slots=True)
class Operand:
    """What a step takes: a number of `bits`, or one of `choices` by their number.

    A choice is what `choices[number % len(choices)]` says; a new one goes last.
    """

    name: str
    bits: int = 64
    choices: tuple[str, ...] = ()

    def fit(self, number: int) -> int:
        """Return the least number that means the same."""
        return number % len(self.choices) if self.choices else number & (1 << self.bits) - 1


@dataclass(frozen=True, slots=True)
class StepKind:
    """One kind of step; `sentence` says what happens."""

    name: str
    actor: Actor
    sentence: str
    operands: tuple[Operand, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionStep:
    """A kind by its name, the number of the vCPU, and a number for each operand."""

    kind: str
    vcpu: int = 0
    operands: tuple[int, ...] = ()

    def chosen(self, name: str) -> str:
        """Return the choice that the operand of that name makes."""
        kind = STEP_BY_NAME[self.kind]
        for operand, number in zip(kind.operands, self.operands, strict=True):
            if operand.name == name:
                return operand.choices[number % len(operand.choices)]
        raise KeyError(name)

    def number(self, name: str) -> int:
        """Return the number that the operand of that name is."""
        kind = STEP_BY_NAME[self.kind]
        for operand, number in zip(kind.operands, self.operands, strict=True):
            if operand.name == name:
                return number & (1 << operand.bits) - 1
        raise KeyError(name)


PLACES: Final = (
    *("vmxon-region", "vmcs-0", "vmcs-1", "vmcs-2", "other-vmxon-region"),
    *("wrong-revision", "shadow-vmcs", "unaligned", "unbacked", "beyond-width", "zero", "all-ones"),
)
"""Guest-physical addresses of regions, good and bad; who runs a session says where they are."""

LINEAR: Final = ("good", "unmapped", "read-only", "non-canonical", "stack")
"""Where a memory operand stands."""

MODES: Final = ("kernel", "user", "compatibility", "real", "virtual-8086", "no-vmxe")
"""What L1 is when it executes an instruction; `kernel` is 64-bit code at CPL 0."""

REGISTERS: Final = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "rip", "rflags"),
    *(f"r{number}" for number in range(8, 16)),
)
SPECIAL_REGISTERS: Final = (
    *("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base", "gdt_base", "gdt_limit"),
    *("idt_base", "idt_limit", "pdptr0", "pdptr1", "pdptr2", "pdptr3"),
)
SEGMENTS: Final = ("cs", "ss", "ds", "es", "fs", "gs", "ldt", "tr")
SEGMENT_PARTS: Final = (
    *("base", "limit", "selector", "type", "present", "dpl", "db", "s", "l", "g", "avl"),
    "unusable",
)
EVENT_PARTS: Final = (
    *("exception.injected", "exception.nr", "exception.has_error_code", "exception.pending"),
    *("exception.error_code", "interrupt.injected", "interrupt.nr", "interrupt.soft"),
    *("interrupt.shadow", "nmi.injected", "nmi.pending", "nmi.masked", "sipi_vector", "flags"),
    *("smi.smm", "smi.pending", "smi.smm_inside_nmi", "smi.latched_init", "triple_fault_pending"),
    *("exception_has_payload", "exception_payload"),
)
"""Of struct kvm_vcpu_events."""

MP_STATES: Final = ("runnable", "uninitialized", "init-received", "halted", "sipi-received")

MSRS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "IA32_FEATURE_CONTROL": msr.MSR_IA32_FEAT_CTL,
        "IA32_EFER": msr.MSR_EFER,
        "IA32_PAT": msr.MSR_IA32_CR_PAT,
        "IA32_DEBUGCTL": msr.MSR_IA32_DEBUGCTLMSR,
        "IA32_SYSENTER_CS": msr.MSR_IA32_SYSENTER_CS,
        "IA32_SYSENTER_ESP": msr.MSR_IA32_SYSENTER_ESP,
        "IA32_SYSENTER_EIP": msr.MSR_IA32_SYSENTER_EIP,
        "IA32_TSC": msr.MSR_IA32_TSC,
        "IA32_SMBASE": 0x9E,
        **{name: index for index, name in msr.VMX_CAPABILITY_MSRS},
    }
)

NESTED_PARTS: Final = (
    *("flags", "format", "size", "vmxon_pa", "vmcs12_pa", "smm_flags", "vmx_flags"),
    *("preemption_timer_deadline", "vmcs12", "shadow_vmcs12"),
)
"""Of struct kvm_nested_state; for the VMCSs `place` is an offset in 4-byte words."""

SMRAM: Final = (
    *("smbase", "cr0", "cr3", "cr4", "efer", "rflags", "rip", "rsp", "rax", "dr6", "dr7"),
    *("cs_selector", "cs_attributes", "cs_limit", "cs_base", "ss_selector", "ss_attributes"),
    *("ss_limit", "ss_base", "tr_selector", "tr_attributes", "ldtr_attributes", "auto_hlt_restart"),
    *("svm_guest_flag", "io_restart", "nmi_masked"),
)
"""Fields of the SMM state-save area of AMD64, which KVM uses for Intel too."""

EXITS: Final = (
    *("vmcall", "cpuid", "hlt", "exception-ud", "exception-gp", "exception-db", "nmi"),
    *("external-interrupt", "triple-fault", "cr0-write", "cr3-write", "cr4-write", "rdmsr"),
    *("wrmsr", "io", "ept-violation", "ept-misconfiguration", "vmlaunch", "vmread", "invept"),
    *("preemption-timer", "monitor-trap-flag", "interrupt-window", "nmi-window", "task-switch"),
    *("apic-access", "failed-entry-33", "failed-entry-34", "vmfail"),
)
"""What the processor does when L2 is to run."""

OTHER_EXITS: Final = (
    *("page-fault", "exception-de", "exception-bp", "exception-df", "exception-ac", "exception-ve"),
    *("invd", "invlpg", "rdpmc", "rdrand", "rdseed", "rdtsc", "rdtscp"),
    *("vmwrite", "vmclear", "vmptrld", "vmptrst", "vmresume", "vmxoff", "vmxon", "invvpid"),
    *("cr-access", "dr-access", "gdtr-idtr", "ldtr-tr", "mwait", "monitor", "pause"),
    *("tpr-below-threshold", "apic-write", "eoi-induced", "invpcid", "wbinvd", "xsetbv"),
    *("xsaves", "xrstors", "umwait", "tpause", "encls", "notify", "bus-lock", "pml-full"),
    *("vmfunc", "machine-check-on-entry", "external-interrupt", "ept-violation"),
    *("triple-fault", "ept-misconfiguration", "io", "vmread"),
)
"""Further exits of L2: rarer ones, and some with all of the exit qualification."""

DELIVERED: Final = (
    *("nothing", "fault", "fault-with-code", "trap", "nmi", "interrupt", "software-interrupt"),
)
"""What the processor was delivering when the exit came: IDT-vectoring information."""

FORMS: Final = (
    *LINEAR,
    *("indexed", "fs-base", "address-32", "address-16"),
)
"""Memory operands that VMREAD and VMWRITE have; the further ones lead to `good`."""

L1_MODES: Final = (*MODES, "protected")
"""The same as `MODES`; `protected` is 32-bit code without paging of 64 bits."""

LAPIC: Final[Mapping[str, int]] = MappingProxyType(
    {"svr": 0xF0, "tpr": 0x80, "lvt-lint0": 0x350, "lvt-timer": 0x320, "id": 0x20, "dfr": 0xE0}
)
"""Registers of the local APIC, by their offset in its page."""

BASES: Final = ("guest-64", "guest-32", "guest-pae", "guest-real", "guest-v86")

_WHERE: Final = Operand("region", choices=PLACES)
_VMCS: Final = Operand("region", choices=(*PLACES[1:], PLACES[0]))
_OPERAND: Final = Operand("operand", choices=LINEAR)
_MODE: Final = Operand("mode", choices=MODES)
_FORM: Final = Operand("operand", choices=FORMS)
_L1_MODE: Final = Operand("mode", choices=L1_MODES)
_VALUE: Final = Operand("value")
_LATER: Final = (field.name for field in FIELDS if field.name not in VMCS_ORDER)
_FIELD: Final = Operand("field", choices=(*VMCS_ORDER, *_LATER))
_SLOT: Final = Operand("slot", choices=("a", "b"))

STEP_KINDS: Final = (
    StepKind("vmxon", "l1", "L1 executes VMXON.", (_WHERE, _OPERAND, _MODE)),
    StepKind("vmxoff", "l1", "L1 executes VMXOFF.", (_MODE,)),
    StepKind("vmclear", "l1", "L1 executes VMCLEAR.", (_VMCS, _OPERAND, _MODE)),
    StepKind("vmptrld", "l1", "L1 executes VMPTRLD.", (_VMCS, _OPERAND, _MODE)),
    StepKind("vmptrst", "l1", "L1 executes VMPTRST.", (_OPERAND, _MODE)),
    StepKind("vmread", "l1", "L1 executes VMREAD into RAX.", (_FIELD, _MODE)),
    StepKind("vmwrite", "l1", "L1 executes VMWRITE.", (_FIELD, _VALUE, _MODE)),
    StepKind(
        "prepare",
        "l1",
        "L1 writes a valid VMCS by VMWRITE.",
        (Operand("base", choices=BASES),),
    ),
    StepKind("vmlaunch", "l1", "L1 executes VMLAUNCH.", (_MODE,)),
    StepKind("vmresume", "l1", "L1 executes VMRESUME.", (_MODE,)),
    StepKind(
        "invept",
        "l1",
        "L1 executes INVEPT.",
        (Operand("type"), Operand("eptp"), _OPERAND, _MODE),
    ),
    StepKind(
        "invvpid",
        "l1",
        "L1 executes INVVPID.",
        (Operand("type"), Operand("vpid", 16), Operand("address"), _OPERAND, _MODE),
    ),
    StepKind("run", "l1", "The vCPU runs until L1 leaves for userspace, L2 with VMCALL."),
    StepKind(
        "l2-exit",
        "l2",
        "The vCPU runs, and what stands here becomes of L2's next VM entry.",
        (Operand("exit", choices=EXITS), Operand("qualification")),
    ),
    StepKind("run-immediate", "userspace", "KVM_RUN with immediate_exit."),
    StepKind("smi", "platform", "KVM_SMI, and the vCPU runs."),
    StepKind(
        "smram-write",
        "platform",
        "A field of the saved state in SMRAM is edited: (old & ~unset) ^ flip.",
        (Operand("field", choices=SMRAM), Operand("unset"), Operand("flip")),
    ),
    StepKind("rsm", "platform", "The vCPU runs, and executes RSM."),
    StepKind("init", "platform", "An INIT signal arrives."),
    StepKind("sipi", "platform", "A SIPI arrives.", (Operand("vector", 8),)),
    StepKind("nmi", "platform", "KVM_NMI."),
    StepKind(
        "memory-write",
        "platform",
        "Eight bytes of guest memory change.",
        (_VMCS, Operand("offset", 12), _VALUE),
    ),
    StepKind(
        "set-regs",
        "userspace",
        "KVM_SET_REGS with one register otherwise.",
        (Operand("register", choices=REGISTERS), _VALUE),
    ),
    StepKind(
        "set-sregs",
        "userspace",
        "KVM_SET_SREGS, or SREGS2 for a PDPTE, with a register edited: (old & ~unset) ^ flip.",
        (Operand("register", choices=SPECIAL_REGISTERS), Operand("unset"), Operand("flip")),
    ),
    StepKind(
        "set-segment",
        "userspace",
        "KVM_SET_SREGS with one part of a segment otherwise.",
        (
            Operand("segment", choices=SEGMENTS),
            Operand("part", choices=SEGMENT_PARTS),
            _VALUE,
        ),
    ),
    StepKind(
        "set-msr",
        "userspace",
        "KVM_SET_MSRS with one MSR edited: (old & ~unset) ^ flip.",
        (Operand("msr", choices=tuple(MSRS)), Operand("unset"), Operand("flip")),
    ),
    StepKind(
        "set-cpuid",
        "userspace",
        "KVM_SET_CPUID2 with what the vCPU has, but for one feature.",
        (Operand("feature", choices=FEATURES),),
    ),
    StepKind(
        "set-events",
        "userspace",
        "KVM_SET_VCPU_EVENTS with one part otherwise.",
        (Operand("part", choices=EVENT_PARTS), _VALUE),
    ),
    StepKind(
        "set-mp-state",
        "userspace",
        "KVM_SET_MP_STATE.",
        (Operand("state", choices=MP_STATES),),
    ),
    StepKind("save", "userspace", "Everything that userspace can read is kept.", (_SLOT,)),
    StepKind(
        "restore",
        "userspace",
        "What was kept is written to this vCPU, as in a migration.",
        (_SLOT,),
    ),
    StepKind(
        "set-nested-state",
        "userspace",
        "KVM_SET_NESTED_STATE with what was kept, but for one part: (old & ~unset) ^ flip.",
        (
            _SLOT,
            Operand("part", choices=NESTED_PARTS),
            Operand("place", 12),
            Operand("unset", 32),
            Operand("flip", 32),
        ),
    ),
    StepKind(
        "l2-other-exit",
        "l2",
        "The same as l2-exit, for other reasons, maybe while an event is delivered.",
        (
            Operand("exit", choices=OTHER_EXITS),
            Operand("qualification"),
            Operand("delivered", choices=DELIVERED),
        ),
    ),
    StepKind(
        "vmread-memory",
        "l1",
        "L1 executes VMREAD into memory.",
        (_FIELD, _FORM, _L1_MODE),
    ),
    StepKind(
        "vmwrite-memory",
        "l1",
        "L1 executes VMWRITE from memory.",
        (_FIELD, _VALUE, _FORM, _L1_MODE),
    ),
    StepKind(
        "interrupt",
        "platform",
        "A message-signalled interrupt arrives at the local APIC.",
        (Operand("vector", 8),),
    ),
    StepKind(
        "set-lapic",
        "userspace",
        "KVM_SET_LAPIC with one register otherwise.",
        (Operand("register", choices=tuple(LAPIC)), Operand("value", 32)),
    ),
    StepKind(
        "no-memory",
        "platform",
        "L0 has no memory for one allocation in each ioctl of the next step, counted from 1.",
        (Operand("allocation", 6),),
    ),
    StepKind(
        "enlighten",
        "userspace",
        "L1 finds Hyper-V in CPUID, and enlightened VMCSs if that is enabled.",
        (Operand("evmcs", choices=("enabled", "not-enabled")),),
    ),
    StepKind(
        "assist-page",
        "l1",
        "L1 names the enlightened VMCS that it will enter with in its VP assist page.",
        (_VMCS, Operand("enlighten", choices=("on", "off", "disabled"))),
    ),
    StepKind(
        "prepare-enlightened",
        "l1",
        "L1 writes a valid enlightened VMCS into memory, with these clean fields.",
        (Operand("base", choices=BASES), _VMCS, Operand("clean", 16)),
    ),
)
"""By the number that the binary format has for them: a new one goes last."""

SETS_NESTED_STATE: Final = ("restore", "set-nested-state")
"""Steps with KVM_SET_NESTED_STATE."""

STEP_BY_NAME: Final[Mapping[str, StepKind]] = MappingProxyType(
    {kind.name: kind for kind in STEP_KINDS}
)


def session_step(kind: str, vcpu: int = 0, **operands: int | str) -> SessionStep:
    """Return a step from its operands by name, choices by their words; what is left out is 0."""
    known = STEP_BY_NAME[kind].operands
    if extra := operands.keys() - {operand.name for operand in known}:
        raise KeyError(f"{kind} has no {', '.join(sorted(extra))}")
    return SessionStep(
        kind, vcpu, tuple(_number(operand, operands.get(operand.name, 0)) for operand in known)
    )


def _number(operand: Operand, value: int | str) -> int:
    return operand.choices.index(value) if isinstance(value, str) else operand.fit(value)
