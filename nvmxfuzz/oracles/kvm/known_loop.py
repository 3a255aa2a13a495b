# SPDX-License-Identifier: GPL-2.0-only
"""What is known to be other than before, after a VM entry of L1's on KVM with a processor below it.

Each entry covers changes by name, where its condition holds. `docs/known-differences-kvm.md` lists
the entries, `corpus/known` has for each change a case that shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from nvmxfuzz.arch.registers import Cr0
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.oracles.kvm.passage import (
    ends_in_fail,
    has_efer_control,
    l0_has_ept,
    late_failure,
)
from nvmxfuzz.targets.passage import Passage

TRANSPARENT: Final = "entry.transparent"
EXIT_INFO: Final = "entry.exit-info"
DRY_RUN_SOUND: Final = "entry.dry-run-sound"
HOST_RESTORED: Final = "entry.host-restored"
FAIL_BEFORE_STATE: Final = "entry.fail-before-state"

ANY_MSR: Final = "MSR"
_ON_ERROR_CODES: Final = frozenset(
    {"entry.event.error-code-required", "entry.event.error-code-real-mode"}
)
_WRITTEN_BEHIND: Final = "execution.tsc-multiplier.zero"


@dataclass(frozen=True, slots=True)
class KnownChange:
    """Changes that the oracles named accept where `where` holds of the passage.

    A change is "vmcs12 FIELD" or "vmcs01 FIELD", "L1's REGISTER", the name of a register of L0,
    "MSR INDEX" or `ANY_MSR` for every one, or the outcome of an entry. `function` is the kernel's
    function that makes it; without a `page` of `docs/findings` it is as it should be. `kernels` are
    the versions the entry is about; all if there are none.
    """

    name: str
    reason: str
    function: str
    oracles: tuple[str, ...]
    changes: frozenset[str]
    where: Callable[[Passage], bool]
    kernels: tuple[str, ...] = ()
    page: str = ""


def _asked(passage: Passage) -> bool:
    return bool(passage.entries)


def _failed(passage: Passage) -> bool:
    """Whether VM entry failed: L1 goes on as after a VM exit."""
    return passage.outcome is not None and passage.outcome.kind == "exit"


def _failed_on_processor(passage: Passage) -> bool:
    return _failed(passage) and _asked(passage)


def _is_late(passage: Passage) -> bool:
    return late_failure(passage) is not None


def _efer_goes_late(passage: Passage) -> bool:
    return _is_late(passage) and not has_efer_control(passage)


def _efer_goes_by_wrmsr(passage: Passage) -> bool:
    return not has_efer_control(passage)


def _fails_on_shadow_paging(passage: Passage) -> bool:
    return ends_in_fail(passage) and not l0_has_ept(passage)


def _multiplier_behind(passage: Passage) -> bool:
    broken = vm_entry(passage.entries[-1].attempt).broken_names if passage.entries else ()
    return _WRITTEN_BEHIND in broken


def _cr0_behind(passage: Passage) -> bool:
    """Whether a dry run that ends in VMfail is wrong about the CR0 that an exception meets."""
    if passage.l1_before is None or not passage.dry_runs or passage.entries:
        return False
    attempt = passage.dry_runs[-1].attempt
    guest_cr0 = passage.l1_before.vmcs.guest_cr0
    if not (attempt.vmcs.guest_cr0 ^ guest_cr0) & Cr0.PE:
        return False
    rightly = replace(attempt, vmcs=attempt.vmcs.replace({"guest_cr0": guest_cr0}))
    of_cr0 = _ON_ERROR_CODES.difference(vm_entry(rightly).broken_names)
    return not of_cr0.isdisjoint(vm_entry(attempt).broken_names)


def _in(vmcs: str, *names: str) -> frozenset[str]:
    return frozenset(f"{vmcs} {name}" for name in names)


ENTRIES: Final = (
    KnownChange(
        "loop.saves-activity-state",
        "An entry that the processor fails is an exit of L2 to KVM: the activity state becomes "
        "active, since an event wakes L2.",
        "sync_vmcs02_to_vmcs12",
        (EXIT_INFO,),
        _in("vmcs12", "guest_activity_state"),
        _failed_on_processor,
        page="failed-entry-saves-state",
    ),
    KnownChange(
        "loop.saves-dr7",
        "Likewise DR7, as KVM keeps it, if VM exit saves debug controls.",
        "sync_vmcs02_to_vmcs12",
        (EXIT_INFO,),
        _in("vmcs12", "guest_dr7"),
        _failed_on_processor,
        page="failed-entry-saves-state",
    ),
    KnownChange(
        "loop.saves-efer",
        "Likewise the EFER of L2, if VM exit saves it.",
        "sync_vmcs02_to_vmcs12",
        (EXIT_INFO,),
        _in("vmcs12", "guest_ia32_efer"),
        _failed_on_processor,
        page="failed-entry-saves-state",
    ),
    KnownChange(
        "loop.saves-linear-address",
        "Likewise the guest-linear address, which is that of an earlier exit.",
        "sync_vmcs02_to_vmcs12",
        (EXIT_INFO,),
        _in("vmcs12", "guest_linear_address"),
        _failed_on_processor,
        page="failed-entry-saves-state",
    ),
    KnownChange(
        "loop.saves-preemption-timer",
        "Likewise what is left of the VMX-preemption timer, if VM exit saves it.",
        "vmx_get_preemption_timer_value",
        (EXIT_INFO,),
        _in("vmcs12", "vmx_preemption_timer_value"),
        _failed_on_processor,
        page="failed-entry-saves-state",
    ),
    KnownChange(
        "loop.list-in-vmcs12",
        "What the MSR-load list has for these registers KVM puts into vmcs12 as well, as if L2 had "
        "written it, and leaves it there if the entry then fails.",
        "vmx_set_msr",
        (EXIT_INFO, FAIL_BEFORE_STATE, TRANSPARENT),
        _in(
            "vmcs12",
            "guest_sysenter_cs",
            "guest_sysenter_esp",
            "guest_sysenter_eip",
            "guest_ia32_debugctl",
            "guest_ia32_pat",
        ),
        lambda passage: _failed(passage) or _is_late(passage),
        page="failed-entry-saves-state",
    ),
    KnownChange(
        "loop.late-vmfail-msrs",
        "Where the processor ends the entry in VMfail, the MSR-load list has been loaded; an MSR "
        "that the VM-exit MSR-load list does not have keeps the value of L2.",
        "nested_vmx_restore_host_state",
        (FAIL_BEFORE_STATE, TRANSPARENT),
        frozenset({ANY_MSR}),
        _is_late,
        page="late-vmfail",
    ),
    KnownChange(
        "loop.late-vmfail-efer",
        "After such a VMfail L1 goes on with SCE of L2, and LMA of the host, where the processor "
        "cannot load EFER at VM entry.",
        "nested_vmx_get_vmcs01_guest_efer",
        (HOST_RESTORED, TRANSPARENT),
        frozenset({"L1's efer", "vmcs01 vm_entry_controls"}),
        _efer_goes_late,
        page="late-vmfail",
    ),
    KnownChange(
        "loop.tsc-of-the-list",
        "IA32_TSC in the MSR-load list moves the TSC of L1, also if the processor then ends the "
        "entry.",
        "vmx_write_tsc_offset",
        (HOST_RESTORED,),
        _in("vmcs01", "tsc_offset"),
        _asked,
        page="late-vmfail",
    ),
    KnownChange(
        "loop.tsc-multiplier-behind",
        "KVM writes the TSC multiplier of vmcs02 only behind the dry run, which so cannot tell "
        "that it is 0.",
        "prepare_vmcs02",
        (DRY_RUN_SOUND,),
        frozenset({"fail-valid 7"}),
        _multiplier_behind,
        page="dry-run-tsc-multiplier",
    ),
    KnownChange(
        "loop.guest-cr0-behind",
        "KVM writes the CR0 of L2 only behind the dry run: which exceptions have an error code is "
        "judged by the one that vmcs02 had before.",
        "prepare_vmcs02",
        (TRANSPARENT,),
        frozenset({"fail-valid 7"}),
        _cr0_behind,
        page="dry-run-guest-cr0",
    ),
    KnownChange(
        "loop.l1-goes-on",
        "After VMfail L1 is behind VMLAUNCH, with flags that say so, and no longer blocks events.",
        "nested_vmx_fail",
        (HOST_RESTORED,),
        _in("vmcs01", "guest_rip", "guest_rflags", "guest_interruptibility_info"),
        ends_in_fail,
    ),
    KnownChange(
        "loop.l1-starts-anew",
        "After a failed entry L1 goes on with the host state of vmcs12.",
        "load_vmcs12_host_state",
        (HOST_RESTORED,),
        _in(
            "vmcs01",
            *(f"guest_{name}_selector" for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr")),
            *("guest_fs_base", "guest_gs_base", "guest_tr_base", "guest_ldtr_ar_bytes"),
            *("guest_gdtr_base", "guest_gdtr_limit", "guest_idtr_base", "guest_idtr_limit"),
            *("guest_cr0", "guest_cr3", "guest_cr4", "cr0_read_shadow", "cr4_read_shadow"),
            *("guest_ia32_efer", "guest_ia32_pat"),
            *("guest_sysenter_cs", "guest_sysenter_esp", "guest_sysenter_eip"),
            *("guest_rflags", "guest_rip", "guest_rsp"),
        ),
        _failed,
    ),
    KnownChange(
        "loop.l1-efer-switched",
        "Where that EFER is not KVM's own, the processor has to switch it; where it is, not.",
        "vmx_set_efer",
        (HOST_RESTORED,),
        _in("vmcs01", "vm_entry_controls", "vm_exit_controls"),
        _failed,
    ),
    KnownChange(
        "loop.l1-umip-emulated",
        "If that CR4 has UMIP and the processor has not, KVM wants exits for what UMIP forbids.",
        "vmx_set_cr4",
        (HOST_RESTORED,),
        _in("vmcs01", "secondary_vm_exec_control"),
        _failed,
    ),
    KnownChange(
        "loop.exit-of-l1",
        "The exit by which L1's VMLAUNCH came to KVM is told in the VMCS of L1.",
        "vmx_vcpu_run",
        (HOST_RESTORED,),
        _in("vmcs01", "vm_exit_reason", "exit_qualification", "vm_exit_instruction_len"),
        _asked,
    ),
    KnownChange(
        "loop.shadow-root",
        "Without EPT, CR3 of the VMCS of L1 is the root of KVM's own page tables, wherever they "
        "are at the moment.",
        "vmx_load_mmu_pgd",
        (HOST_RESTORED,),
        _in("vmcs01", "guest_cr3"),
        _fails_on_shadow_paging,
    ),
    KnownChange(
        "loop.efer-by-wrmsr",
        "Where VM exit cannot load EFER, KVM writes it, and puts its own back on the way to user "
        "space.",
        "kvm_set_user_return_msr",
        (HOST_RESTORED,),
        frozenset({"efer"}),
        _efer_goes_by_wrmsr,
    ),
)
"""Every entry. Those with a page are mistakes of KVM's, the others what must be."""


def changes_of(target: str) -> tuple[KnownChange, ...]:
    """Return the entries that are about a target, such as "kvm-6.12"."""
    kernel = target.removeprefix("kvm-")
    return tuple(each for each in ENTRIES if not each.kernels or kernel in each.kernels)


def unexplained(
    known: Iterable[KnownChange], oracle: str, passage: Passage, changes: Iterable[str]
) -> list[str]:
    """Return the changes of a passage that no entry known to an oracle covers, in their order."""
    left = list(changes)
    for each in known:
        if not left:
            break
        if oracle in each.oracles:
            other = [
                one for one in left if one not in each.changes and _kind(one) not in each.changes
            ]
            if len(other) < len(left) and each.where(passage):
                left = other
    return left


def _kind(change: str) -> str:
    """Return what stands for a change in an entry that is about all of its kind."""
    return ANY_MSR if change.startswith(ANY_MSR) else change
