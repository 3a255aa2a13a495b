# SPDX-License-Identifier: GPL-2.0-only
"""Where KVM is known not to keep a promise of a session, and why.

An entry covers sites of one oracle in certain kernels, and no other; `corpus/vectors/session` has a
vector of each entry and kernel. What a page of docs/findings tells at length is a sentence here.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from nvmxfuzz.oracles.known_breach import KnownBreach, covering

_BOTH: Final = ("6.1", "6.12")

_HANDLE_EXIT: Final = r"(arch/x86/kvm/vmx/vmx\.c(:\d+)?|__vmx_handle_exit\.nested_run_pending)"
"""KVM_BUG_ON(nested_run_pending); the condition that stands with a site says that it is this."""
_VMEXIT: Final = r"(arch/x86/kvm/vmx/nested\.c(:\d+)?|nested_vmx_vmexit\.nested_run_pending)"
"""WARN_ON_ONCE(nested_run_pending)."""

KNOWN: Final = (
    KnownBreach(
        "entry-pending",
        "session.no-warn",
        rf"WARN {_HANDLE_EXIT}, (an invalid L2 with the entry pending|RSM to another L2|"
        r"L2 was left with its entry pending)",
        _BOTH,
        "KVM ends a VM whose L2 is invalid while its entry is pending: after VMLAUNCH, or RSM from "
        "an edited SMRAM (docs/findings/pending-entry.md).",
    ),
    KnownBreach(
        "triple-fault-with-entry-pending",
        "session.no-warn",
        rf"WARN {_VMEXIT}, a triple fault with the entry pending",
        _BOTH,
        "Userspace, or in 6.1 RSM that fails, asks for a triple fault while the entry of L2 is "
        "pending, and KVM leaves L2 with it (docs/findings/pending-entry.md).",
    ),
    KnownBreach(
        "rsm-that-fails-in-l2",
        "session.no-warn",
        rf"WARN {_VMEXIT}, RSM to another L2",
        ("6.1",),
        "RSM that cannot load EFER, CR0, CR3, CR4 or DR7 fails when KVM has entered L2, which it "
        "leaves with the entry pending; 6.12 loads them first (docs/findings/pending-entry.md).",
    ),
    KnownBreach(
        "page-tables-in-no-memory",
        "session.no-warn",
        rf"WARN ({_HANDLE_EXIT}|{_VMEXIT}), an L2 whose page tables are in no memory",
        ("6.1",),
        "KVM asks for a triple fault where L2's page tables begin in no memory, and leaves L2 with "
        "its entry pending (docs/findings/no-memory.md).",
    ),
    KnownBreach(
        "root-in-no-memory",
        "session.no-warn",
        r"WARN arch/x86/kvm/x86\.c(:\d+)?, page tables in no memory without EPT",
        ("6.1",),
        "The same of a plain guest, where KVM has no EPT: its triple fault stands while an "
        "exception is put back (docs/findings/no-memory.md).",
    ),
    KnownBreach(
        "triple-fault-without-page-tables",
        "session.triple-fault",
        r"valid .*, page tables in no memory",
        ("6.1",),
        "KVM ends an L2 whose page tables begin in no memory by a triple fault, where a processor "
        "would have a page fault (docs/findings/no-memory.md).",
    ),
    KnownBreach(
        "rsm-to-impossible-paging",
        "session.no-warn",
        r"WARN (arch/x86/kvm/mmu/mmu\.c(:\d+)?|kvm_calc_cpu_role\.pae), RSM to another L2",
        ("6.12",),
        "RSM enters L2 with a vmcs12 that KVM_SET_NESTED_STATE brought in SMM and nobody checked: "
        "IA-32e mode and a CR4 without PAE, for which KVM's MMU ends the VM.",
    ),
    KnownBreach(
        "ept-in-smm",
        "session.no-warn",
        r"WARN (arch/x86/kvm/mmu/mmu\.c(:\d+)?|kvm_calc_shadow_ept_root_page_role\.smm), "
        r"EPT for L2 in SMM",
        _BOTH,
        "KVM_SET_VCPU_EVENTS puts a vCPU with VMXE into SMM, where L1 then has VMX operation, and "
        "EPT for L2 is not meant to be.",
    ),
    KnownBreach(
        "rsm-after-nested-state-is-gone",
        "session.no-warn",
        r"stopped BUG: VMPTRLD of an address",
        _BOTH,
        "KVM_SET_VCPU_EVENTS that changes SMM frees the nested state, but not that RSM is to go "
        "back to L2: RSM loads a vmcs02 that is not there.",
    ),
    KnownBreach(
        "vmx-operation-in-smm",
        "session.nested-state-reads-back",
        r"SMM over L1: nested\.smm_flags",
        _BOTH,
        "Without a current VMCS KVM_SET_NESTED_STATE ends before it looks at the flags of SMM: the "
        "handler of the SMI is in VMX operation (docs/findings/vmx-operation-in-smm.md).",
    ),
    KnownBreach(
        "restored-over-l2",
        "session.nested-state-reads-back",
        r"L[12]: vmcs12\.guest_(bndcfgs|cs_base|cs_limit)",
        _BOTH,
        "Where L2 was active KVM copies the segments and tables of a vmcs02 that it has freed to "
        "the VMCS that it was given (docs/findings/restored-over-l2.md).",
    ),
    KnownBreach(
        "cr0-fixed-in-vmx-operation",
        "session.ioctl-accepts",
        "set-sregs cr0 without NE",
        _BOTH,
        "In VMX operation KVM_SET_SREGS takes no CR0 without NE, whatever ioctl comes next "
        "(vmx_is_valid_cr0).",
    ),
    KnownBreach(
        "rsm-to-unchecked-vmcs12",
        "session.ioctl-accepts",
        r"(set-nested-state|restore) [ab], RSM after another nested state",
        _BOTH,
        "RSM enters L2 with the VMCS that KVM_SET_NESTED_STATE has brought in SMM, unchecked; "
        "what is read of it is refused when it is written (docs/findings/rsm-to-freed-l2.md).",
    ),
    KnownBreach(
        "refused-nested-state-stays",
        "session.ioctl-accepts",
        r"(set-nested-state|restore) [ab], after a nested state that was refused",
        _BOTH,
        "KVM_SET_NESTED_STATE that is refused leaves its VMCS behind, which VMLAUNCH enters L2 "
        "with: its revision identifier is looked at when what is read of it is written back.",
    ),
    KnownBreach(
        "cr4-fixed-in-vmx-operation",
        "session.ioctl-accepts",
        "set-sregs cr4 without VMXE",
        _BOTH,
        "In VMX operation KVM_SET_SREGS takes no CR4 without VMXE, whatever ioctl comes next.",
    ),
    KnownBreach(
        "cr3-before-init",
        "session.run-changes-nothing",
        "CR3 of before INIT",
        _BOTH,
        "INIT makes CR3 0, but not in the VMCS if paging was off, where an unrestricted guest has "
        "it: the guest reads its old CR3 (docs/findings/cr3-after-init.md).",
    ),
    KnownBreach(
        "nmis-are-counted",
        "session.order",
        "set-events and set-events, several NMIs, .*",
        ("6.1",),
        "KVM_SET_VCPU_EVENTS takes any number of pending NMIs, of which 1 is told.",
    ),
    KnownBreach(
        "blocking-by-nmi-of-l1",
        "session.nested-state-round-trip",
        r"L2, .*: events\.(nmi\.masked|smi\.smm_inside_nmi)",
        _BOTH,
        "That NMIs are blocked for L1 stands in vmcs01 while L2 is active, and nowhere that "
        "userspace could save it from.",
    ),
    KnownBreach(
        "vmfail-after-smm",
        "session.smm-round-trip",
        "L2, l2-exit vmfail: L1 of vmcs01",
        _BOTH,
        "A VMfail that only the processor finds gives L1 its registers back from vmcs01, and SMM "
        "has run with that in between.",
    ),
    KnownBreach(
        "et-of-l2",
        "session.smm-round-trip",
        r"L2: vmcs12\.guest_cr0",
        _BOTH,
        "Where KVM carries out MOV to CR0 for L2, the read shadow gets what L2 wrote, without ET, "
        "which is always 1.",
    ),
    KnownBreach(
        "vmfail-after-restore",
        "session.nested-state-round-trip",
        "L2, l2-exit vmfail: L1 of vmcs01",
        _BOTH,
        "A VMfail that only the processor finds gives L1 its registers back from vmcs01, and in a "
        "vCPU that was restored these are not L1's.",
    ),
    KnownBreach(
        "shadow-vmcs-in-smm",
        "session.nested-state-round-trip",
        r"L2, smi: vmcs12\.guest_rsp",
        _BOTH,
        "In SMM KVM_GET_NESTED_STATE reads RSP of L2 from the shadow VMCS, which is older, but not "
        "where a restore is yet to be written to it (docs/findings/nested-state-in-smm.md).",
    ),
)
"""The entries; an oracle is silent about them."""


@cache
def known(oracle: str, site: str, kernel: str) -> KnownBreach[str] | None:
    """Return the entry that covers a site of an oracle in a kernel, None if there is none."""
    return covering(KNOWN, oracle, site, kernel)
