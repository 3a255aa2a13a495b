# SPDX-License-Identifier: GPL-2.0-only
"""What is probably wrong: a catalogue of causes, each with what in the dump speaks for it.

A cause is named only where the dump has evidence of it; it is a guess all the same, and says what
to look at next. Sources are commits of Linux and documentation of the ioctls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from nvmxfuzz.inputs.dumps.dump import Dump
from nvmxfuzz.machine.outcome import Outcome
from nvmxfuzz.triage.explain import evidence
from nvmxfuzz.triage.explain.evidence import Scene
from nvmxfuzz.triage.explain.verdicts import Judged


@dataclass(frozen=True, slots=True)
class Cause:
    """One probable cause: what it is, what in the dump speaks for it, and what to do."""

    name: str
    sentence: str
    evidence: str
    advice: str


_Evidence: TypeAlias = Callable[[Scene], str]


def causes_of(dump: Dump, outcome: Outcome | None, judged: Sequence[Judged]) -> tuple[Cause, ...]:
    """Return the causes for which there is evidence, the most specific first."""
    scene = Scene(dump, outcome, judged)
    return tuple(
        Cause(name, sentence, found, advice)
        for name, find, sentence, advice in _CATALOGUE
        if (found := find(scene))
    )


_MODULE: Final = (
    "look at unrestricted_guest, ept and emulate_invalid_guest_state below "
    "/sys/module/kvm_intel/parameters: with the first two Y, no guest needs more"
)
_SREGS: Final = "look at what the VMM gives KVM_SET_SREGS, or at the state that it restores"
_CATALOGUE: Final[tuple[tuple[str, _Evidence, str, str], ...]] = (
    (
        "amd",
        evidence.amd,
        "This is no Intel processor: AMD SVM refused the VMCB, whose checks are others.",
        "set kvm_amd.dump_invalid_vmcb=1; the rules below are Intel's and say nothing of it",
    ),
    (
        "machine-check",
        evidence.machine_check,
        "A machine check was signalled during VM entry: it is the hardware, not the state.",
        "look for machine-check errors in the host's log",
    ),
    (
        "emulation-failure",
        evidence.emulation,
        "VM entry did not fail: KVM met an instruction that it cannot emulate.",
        "look at the bytes that QEMU prints as Code; without unrestricted guest KVM emulates all "
        "of real mode: " + _MODULE,
    ),
    (
        "internal-error",
        evidence.other_suberror,
        "VM entry did not fail: KVM gave up on a VM exit that it cannot handle.",
        "look up KVM_EXIT_INTERNAL_ERROR in the documentation of KVM's API; suberror 3 is a fault "
        "in the delivery of an event, such as a damaged IDT of the guest",
    ),
    (
        "smi-in-shadow",
        evidence.smi_in_shadow,
        "An SMI was taken right behind STI, and KVM kept the blocking by STI while SMM began with "
        "IF = 0: a bug of KVM before Linux 6.2, met by guests with Secure Boot and several CPUs.",
        "take a host kernel with commit fb28875fd7da (KVM: x86: smm: preserve interrupt shadow in "
        "SMRAM)",
    ),
    (
        "restricted-guest",
        evidence.restricted,
        "The guest is in a state that only an unrestricted guest can be in, such as big real mode, "
        "and KVM runs it without.",
        _MODULE,
    ),
    (
        "restricted-real-mode",
        evidence.restricted_virtual_8086,
        "KVM runs real mode as virtual-8086 mode, and these segments do not exist there: big real "
        "mode, or the first instructions after reset.",
        _MODULE,
    ),
    (
        "restricted-segments",
        evidence.restricted_control,
        "Without unrestricted guest the segment registers must be those of protected mode; these "
        "may be left over from real mode, or from another mode switch.",
        _MODULE,
    ),
    (
        "single-step-in-shadow",
        evidence.single_step,
        "The guest is stepped by TF in the shadow of STI or MOV SS, and KVM did not set the "
        "pending debug exception BS, as VM entry demands.",
        "take a host kernel with commit b9bed78e2fa9 (KVM: VMX: Set vmcs.PENDING_DBG.BS on #DB in "
        "STI/MOVSS blocking shadow); if a VM was restored there, c5bad4fa2d5d as well",
    ),
    (
        "shadow-without-if",
        evidence.shadow_without_if,
        "Blocking by STI without IF: user space restored an interrupt shadow that does not suit "
        "RFLAGS, or KVM cleared IF and not the shadow.",
        "look at interrupt.shadow of KVM_SET_VCPU_EVENTS and at RFLAGS of KVM_SET_REGS",
    ),
    (
        "nmi-in-sti-shadow",
        evidence.nmi_by_qualification,
        "This processor does not let an NMI be injected while STI blocks.",
        "it is KVM that has to wait: report it with the dump",
    ),
    (
        "blocked-event",
        evidence.event,
        "An event is injected into a guest that blocks it, or in an activity state in which it "
        "cannot come.",
        "look at what the VMM gives KVM_SET_VCPU_EVENTS and KVM_SET_MP_STATE, and in which order",
    ),
    (
        "task-register",
        evidence.task_register,
        "TR holds no busy TSS: a VMM has to give KVM one whose type is 11, or 3 in 16-bit mode, "
        "present and usable, even where the guest has none.",
        _SREGS,
    ),
    (
        "real-mode-privilege",
        evidence.real_mode_dpl,
        "A guest in real mode runs at privilege level 0, but SS has another DPL.",
        _SREGS,
    ),
    (
        "mixed-privilege",
        evidence.privilege,
        "CS and SS are of different privilege levels: CPL is the DPL of SS, and they must agree.",
        _SREGS,
    ),
    (
        "granularity",
        evidence.granularity,
        "A limit and its granularity do not go together: KVM takes limits in bytes, so that 4 GiB "
        "is limit FFFFFFFFH with g = 1, and 64 KiB is FFFFH with g = 0.",
        _SREGS,
    ),
    (
        "code-segment",
        evidence.code_segment,
        "CS has both L and D/B set: 64-bit code has D/B = 0.",
        _SREGS,
    ),
    (
        "descriptor",
        evidence.descriptor,
        "A segment register has a type that no loaded one can have: loading sets the accessed bit, "
        "and a register that is not usable has to be marked so.",
        _SREGS,
    ),
    (
        "rflags-bit-1",
        evidence.flags_without_bit_1,
        "Bit 1 of RFLAGS is clear, which KVM_SET_REGS sets itself: RFLAGS came by another way, "
        "such as a bug in KVM, or damaged memory.",
        "report it with the dump; test the memory if it happens once only",
    ),
    (
        "rflags-reserved",
        evidence.reserved_flags,
        "RFLAGS has a reserved bit: KVM_SET_REGS hands any bits on without a check.",
        "look at what the VMM gives KVM_SET_REGS, or at the state that it restores",
    ),
    (
        "virtual-8086",
        evidence.virtual_8086,
        "RFLAGS.VM is set where virtual-8086 mode does not exist.",
        "look at RFLAGS of KVM_SET_REGS, and whether it is set before CR0 and EFER",
    ),
    (
        "mode",
        evidence.mode,
        "CR0, CR4, IA32_EFER and the segment registers do not agree on the mode of the guest: "
        "paging, long mode, CET or FRED.",
        "give KVM all of them in one KVM_SET_SREGS; EFER.LMA is LME and CR0.PG",
    ),
    (
        "another-processor",
        evidence.fixed_bits,
        "A control register has a bit that this processor does not have, or lacks one that VMX "
        "demands: typical of a state that was saved on another processor.",
        "compare the CPU model of the VM with what both hosts support",
    ),
    (
        "not-canonical",
        evidence.canonical,
        "An address is not canonical on this processor: damaged, or of a guest with 57-bit "
        "linear addresses on a processor with 48.",
        _SREGS,
    ),
    (
        "registers",
        evidence.registers,
        "A register or a part of the state has bits that are reserved on this processor.",
        "look at KVM_SET_MSRS, KVM_SET_DEBUGREGS, KVM_SET_VCPU_EVENTS and KVM_SET_MP_STATE of the "
        "VMM, and whether the state is from another processor",
    ),
    (
        "pdptes",
        evidence.pdptes,
        "A page-directory-pointer-table entry of a PAE guest has a reserved bit: the guest's page "
        "table is damaged, or KVM has loaded it from a wrong place.",
        "compare the four entries with guest memory at CR3; bits beyond MAXPHYADDR count too",
    ),
    (
        "link-pointer",
        evidence.link_pointer,
        "The VMCS link pointer is invalid, which no dump prints: without VMCS shadowing it must be "
        "all ones, with it KVM keeps a shadow VMCS there.",
        "it is KVM's own field: report it with the dump, and try kvm_intel.enable_shadow_vmcs=0",
    ),
    (
        "msr-loading",
        evidence.msr_loading,
        "VM entry could not load an MSR: it does not exist on this processor, or the value has "
        "reserved bits.",
        "try WRMSR of the value on the host; where KVM runs in a VM, the hypervisor below decides",
    ),
    (
        "controls",
        evidence.controls,
        "The control fields do not suit this processor. KVM makes them itself from the capability "
        "MSRs: it is a bug, or KVM runs in a VM whose hypervisor changed them.",
        "compare the host's capability MSRs (nvmxfuzz config); a VM with KVM in it must not be "
        "migrated between hosts that differ in them",
    ),
    (
        "host-state",
        evidence.host_state,
        "The host state is one that the processor does not accept. KVM takes it from the running "
        "kernel: it is a bug of KVM, or of the hypervisor below it.",
        "report it with the dump, and name the hypervisor below if KVM runs in a VM",
    ),
)
