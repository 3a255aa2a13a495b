# SPDX-License-Identifier: GPL-2.0-only
"""What in a dump speaks for a cause: each function returns it in words, "" if there is nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.entry_failures import EntryFailure
from nvmxfuzz.arch.events import Interruptibility
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.instruction_errors import InstructionError
from nvmxfuzz.arch.registers import Cr0, Rflags
from nvmxfuzz.arch.segments import AccessRights
from nvmxfuzz.inputs.dumps.dump import Dump
from nvmxfuzz.machine.outcome import Outcome
from nvmxfuzz.triage.explain.hypotheses import RESTRICTED
from nvmxfuzz.triage.explain.verdicts import Judged


class Scene:
    """What the causes look at: the dump, how entry failed, and the names of the rules it breaks."""

    def __init__(self, dump: Dump, outcome: Outcome | None, judged: Sequence[Judged]) -> None:
        self.dump = dump
        self.outcome = outcome
        self.broken = [one.rule.name for one in judged if one.likely]
        self.restricted = [one.rule.name for one in judged if one.broken_if == (RESTRICTED,)]

    def field(self, name: str) -> int:
        """Return a field, 0 if it is not printed."""
        return self.dump.fields.get(name, 0)

    def broken_among(self, *endings: str) -> str:
        """Return the names of the broken rules that end so, as evidence; "" if there is none."""
        return _listed(name for name in self.broken if name.endswith(endings))

    def exits(self, reason: int, qualification: int = 0) -> bool:
        """Whether entry failed with that exit, as far as the dump tells."""
        outcome = self.outcome
        return (
            outcome is not None
            and (outcome.kind, outcome.number) == ("exit", reason)
            and (not qualification or outcome.qualification == qualification)
        )

    def fails(self, error: int) -> bool:
        """Whether entry failed with that VM-instruction error."""
        outcome = self.outcome
        return outcome is not None and (outcome.kind, outcome.number) == ("fail-valid", error)


_MOST_NAMES: Final = 4
_SMI_HANDLER: Final = 0x8000
"""RIP at which an SMI is taken."""
_AMD_INVALID: Final = 0xFFFF_FFFF
"""VMEXIT_INVALID of AMD SVM as KVM passes it on, which is no exit reason of Intel's."""
_EMULATION: Final = 1


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _MOST_NAMES} more" if len(every) > _MOST_NAMES else ""
    return ", ".join(every[:_MOST_NAMES]) + more


def amd(scene: Scene) -> str:
    """The error is one of AMD SVM."""
    return "the hardware error is 0xffffffff" if scene.dump.error == _AMD_INVALID else ""


def emulation(scene: Scene) -> str:
    """KVM could not emulate an instruction."""
    suberror = scene.dump.facts.get("suberror")
    return "KVM reports suberror 1" if suberror == _EMULATION else ""


def other_suberror(scene: Scene) -> str:
    """KVM gave up for another reason than emulation."""
    suberror = scene.dump.facts.get("suberror")
    return "" if suberror in (None, _EMULATION) else f"KVM reports suberror {suberror}"


def machine_check(scene: Scene) -> str:
    """A machine check was signalled during VM entry."""
    return "the basic exit reason is 41" if scene.exits(ExitReason.MCE_DURING_VMENTRY) else ""


def smi_in_shadow(scene: Scene) -> str:
    """An SMI began with the interrupt shadow that it interrupted."""
    if scene.dump.fields.get("guest_rip") != _SMI_HANDLER:
        return ""
    if scene.dump.source == "qemu":
        in_smm = scene.dump.facts.get("smm") and not scene.broken
        return "SMM is 1 and RIP is 0x8000, where an SMI begins" if in_smm else ""
    return (
        "RIP is 0x8000, where an SMI begins, with blocking by STI and IF = 0"
        if "guest.interruptibility.sti-if" in scene.broken
        else ""
    )


def restricted(scene: Scene) -> str:
    """QEMU prints a state that only an unrestricted guest can have."""
    if scene.dump.source != "qemu":
        return ""
    virtual_8086 = [name for name in scene.broken if ".v8086-" in name]
    if virtual_8086:
        return f"{_listed(virtual_8086)} are broken on a processor without unrestricted guest"
    if scene.broken or not scene.restricted:
        return ""
    return f"{_listed(scene.restricted)} would be broken without unrestricted guest"


def restricted_virtual_8086(scene: Scene) -> str:
    """A guest in virtual-8086 mode has segments that do not exist there."""
    if scene.dump.source != "kvm" or not scene.field("guest_rflags") & Rflags.VM:
        return ""
    names = _listed(name for name in scene.broken if ".v8086-" in name)
    off = not scene.field("secondary_vm_exec_control") & Secondary.UNRESTRICTED_GUEST
    return (
        f"RFLAGS.VM is 1, unrestricted guest is 0, and {names} are broken" if names and off else ""
    )


def restricted_control(scene: Scene) -> str:
    """A restricted guest has segments of another mode."""
    restricted = "control" in scene.dump.parts and not (
        scene.field("secondary_vm_exec_control") & Secondary.UNRESTRICTED_GUEST
    )
    names = scene.broken_among(".rpl", ".dpl-rpl", ".cs.type", ".dpl", "guest.cr0.must-be-1")
    return f"unrestricted guest is 0, and {names} are broken" if restricted and names else ""


def single_step(scene: Scene) -> str:
    """BS is clear where TF steps in an interrupt shadow."""
    return scene.broken_among("pending-debug.bs-set")


def shadow_without_if(scene: Scene) -> str:
    """Blocking by STI with IF = 0, and not from an SMI."""
    return scene.broken_among("interruptibility.sti-if") if not smi_in_shadow(scene) else ""


def event(scene: Scene) -> str:
    """An event comes where it is blocked."""
    return scene.broken_among(
        "guest.rflags.if",
        "interruptibility.interrupt-sti",
        "interruptibility.interrupt-mov-ss",
        "interruptibility.nmi-mov-ss",
        "interruptibility.nmi-sti",
        "interruptibility.virtual-nmi",
        "interruptibility.sti-and-mov-ss",
        "activity.blocking",
        "activity.hlt-event",
        "activity.shutdown-event",
        "activity.wait-for-sipi-event",
    )


def nmi_by_qualification(scene: Scene) -> str:
    """The exit qualification tells of an NMI in the shadow of STI."""
    failed = scene.exits(ExitReason.INVALID_STATE, EntryFailure.NMI)
    blocked = scene.field("guest_interruptibility_info") & Interruptibility.BLOCKING_BY_STI
    state = "there is blocking by STI" if blocked else "no blocking by STI is printed"
    return f"the exit qualification is 3, and {state}" if failed else ""


def task_register(scene: Scene) -> str:
    """TR holds no busy TSS."""
    names = scene.broken_among(
        "tr.type", "tr.type-ia-32e", "tr.usable", "tr.p", "tr.s", "tr.ti", "tr.reserved-low"
    )
    rights = scene.field("guest_tr_ar_bytes")
    kind = rights & AccessRights.TYPE
    return f"{names}: the access rights of TR are {rights:#x}, type {kind}" if names else ""


def privilege(scene: Scene) -> str:
    """CS and SS are of different privilege levels."""
    names = scene.broken_among(
        ".rpl", ".dpl-rpl", ".dpl-non-conforming", ".dpl-conforming", ".dpl-data", ".dpl-data-cs"
    )
    if not names:
        return ""
    cs, ss = (scene.field(f"guest_{name}_ar_bytes") & AccessRights.DPL for name in ("cs", "ss"))
    selectors = [scene.field(f"guest_{name}_selector") & 3 for name in ("cs", "ss")]
    return (
        f"{names}: DPL and RPL of CS are {cs >> 5} and {selectors[0]}, those of SS {ss >> 5} and "
        f"{selectors[1]}"
    )


def real_mode_dpl(scene: Scene) -> str:
    """The DPL of SS is not 0 in real mode."""
    return scene.broken_among("ss.dpl-real-mode")


def granularity(scene: Scene) -> str:
    """A limit does not suit its granularity."""
    return scene.broken_among(".g-set", ".g-clear", "gdtr.limit", "idtr.limit")


def code_segment(scene: Scene) -> str:
    """Both L and D/B of CS are set."""
    return scene.broken_among("guest.cs.db")


def descriptor(scene: Scene) -> str:
    """A type or another part of access rights is none of a loaded register."""
    return scene.broken_among(
        ".accessed", ".readable", "cs.type", "cs.type-unrestricted", "ss.type", "ldtr.type", "s.s",
        "ldtr.s", ".reserved-low", ".reserved-high", "s.p", "ldtr.p",
    )  # fmt: skip


def flags_without_bit_1(scene: Scene) -> str:
    """Bit 1 of RFLAGS is clear."""
    return scene.broken_among("rflags.fixed-1")


def reserved_flags(scene: Scene) -> str:
    """RFLAGS has a reserved bit."""
    return scene.broken_among("rflags.reserved")


def virtual_8086(scene: Scene) -> str:
    """RFLAGS.VM is set outside legacy protected mode."""
    return scene.broken_among("rflags.vm-ia-32e", "rflags.vm-real-mode")


def mode(scene: Scene) -> str:
    """The registers disagree on the mode of the guest."""
    return scene.broken_among(
        "guest.efer.lma", "guest.efer.lme", "guest.cr0.pg", "guest.cr0.pe", "guest.cr4.pae",
        "guest.cr4.pcide", "guest.rip.high", "guest.cr4.fred", "guest.cr0.wp", "cs.l-fred",
        "ss.dpl-fred", "ss.iopl-fred", "ss.sti-fred",
    )  # fmt: skip


def fixed_bits(scene: Scene) -> str:
    """A control register does not suit the processor."""
    if restricted_control(scene) and scene.field("guest_cr0") & Cr0.PG == 0:
        return ""
    return scene.broken_among("guest.cr0.must-be-1", "guest.cr0.must-be-0", "cr4.must-be-1",
                              "cr4.must-be-0", "cr3.width", "cr3.lam")  # fmt: skip


def canonical(scene: Scene) -> str:
    """An address is not canonical."""
    return scene.broken_among(
        "guest.gdtr.base", "guest.idtr.base", "base-canonical", "rip.linear-address", ".canonical",
        "ssp.linear-address", ".base-high",
    )  # fmt: skip


def registers(scene: Scene) -> str:
    """Another register or part of the state has a value that is reserved."""
    return scene.broken_among(
        "guest.efer.reserved", "guest.pat.memory-types", "guest.debugctl.reserved",
        "guest.perf-global-ctrl.reserved", "guest.dr7.upper", "guest.bndcfgs.reserved",
        "activity.value", "activity.supported", "activity.hlt-dpl", "interruptibility.reserved",
        "activity.wait-for-sipi-smm", "pending-debug.reserved", "pending-debug.bs-clear",
        "pending-debug.bus-lock", "pending-debug.rtm-alone", "pending-debug.rtm-support",
        "pending-debug.rtm-enabled-breakpoint", "pending-debug.rtm-mov-ss",
        "interruptibility.enclave-mov-ss", "interruptibility.enclave-sgx",
        "interruptibility.smi-outside-smm", "interruptibility.smi-entry-to-smm",
    )  # fmt: skip


def pdptes(scene: Scene) -> str:
    """A PDPTE has a reserved bit."""
    names = _listed(name for name in scene.broken if name.startswith("pdpte."))
    failed = scene.exits(ExitReason.INVALID_STATE, EntryFailure.PDPTE)
    return names or ("the exit qualification is 2" if failed else "")


def link_pointer(scene: Scene) -> str:
    """The exit qualification tells of the VMCS link pointer."""
    failed = scene.exits(ExitReason.INVALID_STATE, EntryFailure.VMCS_LINK_POINTER)
    shadowing = scene.field("secondary_vm_exec_control") & Secondary.VMCS_SHADOWING
    use = "VMCS shadowing is 1" if shadowing else "VMCS shadowing is 0"
    return f"the exit qualification is 4, and {use}" if failed else ""


def msr_loading(scene: Scene) -> str:
    """An MSR could not be loaded."""
    if not scene.exits(ExitReason.MSR_LOAD_FAIL):
        return ""
    number = scene.outcome.qualification if scene.outcome else 0
    msrs = scene.dump.entry_msrs
    if not 0 < number <= len(msrs):
        return "the basic exit reason is 34"
    index, value = msrs[number - 1]
    return f"entry {number} of the list that VM entry loads is MSR {index:#x} = {value:#x}"


def controls(scene: Scene) -> str:
    """VM entry refused the controls."""
    failed = scene.fails(InstructionError.ENTRY_INVALID_CONTROL_FIELD)
    return "the VM-instruction error is 7" if failed else ""


def host_state(scene: Scene) -> str:
    """VM entry refused the host state."""
    failed = scene.fails(InstructionError.ENTRY_INVALID_HOST_STATE_FIELD)
    return "the VM-instruction error is 8" if failed else ""
