# SPDX-License-Identifier: GPL-2.0-only
"""What may have been in the VMCS of a dump, where the dump leaves it open.

KVM prints the VMCS itself. What QEMU prints are the guest's registers as KVM shows them to user
space, which KVM alters for the VMCS: it sets bits of CR0 and CR4, and without "unrestricted guest"
it runs real mode in virtual-8086 mode. Whether a guest is unrestricted QEMU does not print either,
so that both are considered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from nvmxfuzz.arch.controls import Primary, Secondary, VmEntry
from nvmxfuzz.arch.exit_reasons import ExitReasonField
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer, Rflags
from nvmxfuzz.inputs.dumps.dump import Dump
from nvmxfuzz.machine.outcome import Outcome, exit_on_entry, fail_valid
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.triage.explain.processors import MOST_LENIENT, STRICTEST, processors

GUEST: Final = "if the guest "
UNRESTRICTED: Final = f"{GUEST}is unrestricted"
RESTRICTED: Final = f"{GUEST}is not unrestricted"
"""Whether "unrestricted guest" is 1: what a hypothesis on a dump of QEMU is called."""

_PARTS_OF_KVM: Final = ("guest", "host", "control")
_CODE_AND_DATA: Final = ("cs", "ss", "ds", "es", "fs", "gs")
_VIRTUAL_8086_RIGHTS: Final = 0xF3
_REAL_MODE_TSS: Final = {
    "guest_tr_selector": 0,
    "guest_tr_limit": 0xFFFF,
    "guest_tr_ar_bytes": 0x8B,
}
"""The task register that KVM loads in place of the guest's for virtual-8086 mode."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One thing that may have been the case: the processor, and all that is known of the VMCS."""

    profile: Profile
    fields: Mapping[str, int] = field(hash=False)
    guest: str = ""


def reported(dump: Dump) -> Outcome | None:
    """Return how VM entry failed by the dump's own account, None where it does not say."""
    reason = dump.fields.get("vm_exit_reason", 0) if dump.error is None else dump.error
    if reason & ExitReasonField.ENTRY_FAILURE:
        qualification = dump.fields.get("exit_qualification", 0) if dump.error is None else 0
        return exit_on_entry(reason & ExitReasonField.BASIC, qualification)
    return None if not dump.error else fail_valid(dump.error)


def hypotheses(dump: Dump, profile: Profile | None) -> Iterator[Hypothesis]:
    """Yield what may have been the case, on `profile` alone if the user has named it."""
    outcome = reported(dump)
    passed = outcome is not None and outcome.kind == "exit"
    if dump.source == "kvm":
        for candidate in (profile,) if profile else processors(dump.fields, controls_passed=passed):
            yield Hypothesis(candidate, dump.fields)
    elif dump.fields:
        yield from _hypotheses_of_qemu(dump, profile)


def _hypotheses_of_qemu(dump: Dump, profile: Profile | None) -> Iterator[Hypothesis]:
    for guest, secondary in (
        (UNRESTRICTED, Secondary.ENABLE_EPT | Secondary.UNRESTRICTED_GUEST),
        (RESTRICTED, 0),
    ):
        fields = _of_qemu(dump, secondary)
        word = {"secondary_vm_exec_control": secondary}
        if not profile:
            for candidate in processors(word, controls_passed=True):
                yield Hypothesis(candidate, fields, guest)
        elif not secondary & ~profile.caps.secondary_may:
            yield Hypothesis(profile, fields, guest)


def assumptions(
    dump: Dump, profile: Profile | None, considered: Sequence[Hypothesis]
) -> tuple[str, ...]:
    """Return what is assumed, as sentences."""
    return (*_of_processor(dump, profile, considered), *_of_source(dump))


def _of_processor(
    dump: Dump, profile: Profile | None, considered: Sequence[Hypothesis]
) -> Iterator[str]:
    if profile:
        yield f"The processor is like the profile {profile.name}."
    elif considered:
        names = {hypothesis.profile.name for hypothesis in considered} - {STRICTEST, MOST_LENIENT}
        like = " that allow these controls" if dump.source == "kvm" else ""
        yield (
            f"The processor is not printed: what {len(names)} published ones{like} agree on, and "
            "what is between them, is taken as known; --profile names one."
        )
    yield "VM entry was executed by a 64-bit KVM outside SMM."


def _of_source(dump: Dump) -> Iterator[str]:
    if dump.source == "qemu" and dump.fields:
        yield (
            "QEMU prints the guest's registers, not the VMCS: KVM adds CR0.NE and CR4.VMXE, loads "
            'debug controls, and sets "IA-32e mode guest" as EFER.LMA is.'
        )
        yield (
            'Whether "unrestricted guest" is 1 is not printed: both are considered. Where it is 0, '
            "KVM adds CR0.PE and CR0.PG, and runs real mode as virtual-8086 mode."
        )
        if not dump.facts.get("wide"):
            yield "Of a register that is printed with 8 digits the upper half is 0."
    missing = [part for part in _PARTS_OF_KVM if part not in dump.parts]
    if dump.source == "kvm" and missing:
        yield f"The dump is cut off: nothing of its {' and '.join(missing)} state is there."


def _of_qemu(dump: Dump, secondary: int) -> dict[str, int]:
    """Return what KVM makes of the registers that QEMU prints, under these secondary controls."""
    fields = dict(dump.fields)
    unrestricted = secondary & Secondary.UNRESTRICTED_GUEST != 0
    long_mode = dump.facts.get("efer", 0) & Efer.LMA != 0
    fields["vm_entry_controls"] = VmEntry.LOAD_DEBUG_CONTROLS | (
        VmEntry.IA_32E_MODE_GUEST if long_mode else 0
    )
    fields["cpu_based_vm_exec_control"] = int(Primary.ACTIVATE_SECONDARY_CONTROLS)
    fields["secondary_vm_exec_control"] = secondary
    cr0 = fields.get("guest_cr0", Cr0.PE | Cr0.PG)
    if "guest_cr0" in fields:
        fields["guest_cr0"] = cr0 | (Cr0.NE if unrestricted else Cr0.NE | Cr0.PE | Cr0.PG)
    if "guest_cr4" in fields:
        fields["guest_cr4"] |= Cr4.VMXE
        if not unrestricted and not cr0 & Cr0.PG:
            # Paging that the guest does not know of is KVM's own.
            fields["guest_cr4"] &= ~Cr4.PAE
    return fields if unrestricted or cr0 & Cr0.PE else _in_virtual_8086(fields)


def _in_virtual_8086(fields: dict[str, int]) -> dict[str, int]:
    """Return the state in which KVM runs real mode: what it leaves as it is, is what may fail."""
    rights = {f"guest_{name}_ar_bytes": _VIRTUAL_8086_RIGHTS for name in _CODE_AND_DATA}
    known = {name: value for name, value in rights.items() if name in fields}
    flags = fields.get("guest_rflags")
    if flags is not None:
        known["guest_rflags"] = flags | Rflags.VM | Rflags.IOPL
    return {**fields, **known, **_REAL_MODE_TSS}
