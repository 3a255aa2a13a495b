# SPDX-License-Identifier: GPL-2.0-only
"""Where a migration between two KVMs is known to break a promise, and why.

An entry covers sites of one oracle for certain pairs of kernels, and no other.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from nvmxfuzz.oracles.known_breach import KnownBreach, covering

Pair = tuple[str, str]
"""Source and destination."""


_FROM_5_18: Final[tuple[Pair, ...]] = (("5.18", "6.1"), ("5.18", "6.12"))

_VERSIONS: Final = ("5.18", "6.1", "6.12")
_EVERY: Final[tuple[Pair, ...]] = tuple((one, other) for one in _VERSIONS for other in _VERSIONS)

ADDRESS_CHECKS: Final = (
    *("execution.io-bitmap-a.address", "execution.io-bitmap-b.address"),
    *("execution.msr-bitmap.address", "execution.virtual-apic.address"),
    *("execution.apic-access.address", "execution.pml.address", "execution.eptp-list.address"),
    *("execution.vmread-bitmap.address", "execution.vmwrite-bitmap.address"),
    *("execution.posted-interrupts.descriptor", "execution.eptp.reserved"),
    *("exit.msr-store.area", "exit.msr-load.area", "entry.msr-load.area"),
    *("host.cr3.width", "guest.cr3.width", "guest.pdptes.valid", "guest.link-pointer.address"),
)
"""The checks of KVM that look at the physical-address width."""
_MSR_LOADING: Final = r"entry (exit 34 qualification \d+|triple-fault)"
"""An MSR of L1's VM-entry MSR-load list is refused, no check says which; the triple fault is that
of an L1 whose VM-exit MSR-load list is refused then as well."""

KNOWN: Final = (
    KnownBreach(
        "encls-exiting-5.18",
        "migration.backward",
        "refused secondary: enable ENCLS exiting",
        _FROM_5_18,
        "5.18 offers the control whatever the processor has; later kernels ask the processor.",
        "migration-encls-exiting",
    ),
    KnownBreach(
        "encls-exiting-5.18-on-hyper-v",
        "migration.backward",
        "refused on Hyper-V secondary: enable ENCLS exiting",
        _FROM_5_18,
        "The same where the enlightened VMCS is used.",
        "migration-encls-exiting",
    ),
    KnownBreach(
        "half-of-a-pair-5.18",
        "migration.backward",
        r"refused VM-(exit|entry): (load|clear) IA32_(PAT|EFER|BNDCFGS|PERF_GLOBAL_CTRL|RTIT_CTL)",
        _FROM_5_18,
        "5.18 offers what the processor has of a pair of controls; later kernels both or neither.",
        "migration",
    ),
    KnownBreach(
        "evmcs-config",
        "migration.backward",
        "refused on Hyper-V ("
        "secondary: (virtualize APIC accesses|enable VM functions|APIC-register virtualization"
        "|virtual-interrupt delivery)"
        "|pin-based: process posted interrupts|VM function: EPTP switching)",
        (("5.18", "6.12"), ("6.1", "6.12")),
        "6.12 takes what the enlightened VMCS lacks out of its config; 6.1 leaves it in, and 5.18 "
        "makes the MSRs from the processor's.",
        "migration-evmcs",
    ),
    KnownBreach(
        "debugctl-5.18",
        "migration.no-new-vmfail",
        r"(resume|entry) guest\.debugctl\.supported",
        _FROM_5_18,
        "5.18 leaves IA32_DEBUGCTL to the processor; later kernels refuse TR, BTS and what else "
        "they do not virtualise.",
        "migration",
    ),
    KnownBreach(
        "paging-5.18",
        "migration.no-new-vmfail",
        r"(resume|entry) guest\.(cr0\.paging|ia-32e\.pae|ia-32e\.paging)",
        _FROM_5_18,
        "5.18 leaves paging without protection, and IA-32e mode without PAE or paging, to the "
        "processor, which refuses them.",
        "migration",
    ),
    KnownBreach(
        "addresses-of-57-bits",
        "migration.no-new-vmfail",
        r"(resume|entry) (host\.((fs|gs|tr|gdtr|idtr)\.base|sysenter-e[is]p\.canonical)"
        r"|guest\.bndcfgs\.canonical)",
        (("6.12", "5.18"), ("6.12", "6.1")),
        "6.1 and 5.18 hold addresses against L1's CR4.LA57, 6.12 against the width of the "
        "processor.",
        "addresses-of-57-bits",
    ),
    KnownBreach(
        "msr-load-6.12",
        "migration.no-new-vmfail",
        _MSR_LOADING,
        (("6.12", "5.18"), ("6.12", "6.1")),
        "6.12 lets VM entry load MSRs with addresses of 57 bits, and AMD's HWCR with two bits, "
        "that 6.1 and 5.18 refuse.",
        "addresses-of-57-bits",
    ),
    KnownBreach(
        "freeze-while-smm",
        "migration.no-new-vmfail",
        r"(resume|entry) guest\.debugctl\.supported",
        (("6.12", "6.1"),),
        "6.12 lets IA32_DEBUGCTL.FREEZE_WHILE_SMM pass in vmcs12 by a quirk, which 6.1 does not "
        "have.",
        "migration",
    ),
    KnownBreach(
        "fewer-address-bits",
        "migration.no-new-vmfail",
        "with fewer address bits( and features)?, "
        # MTRRs in the MSR-load list have addresses too.
        f"((resume|entry) ({'|'.join(map(re.escape, ADDRESS_CHECKS))})|{_MSR_LOADING})",
        _EVERY,
        "Userspace that gives a VM the address width of the destination changes its processor.",
        "migration",
    ),
    KnownBreach(
        "fewer-features",
        "migration.no-new-vmfail",
        "with fewer (address bits and )?features, "
        rf"({_MSR_LOADING}|(resume|entry) "
        r"(guest\.debugctl\.supported|(guest|host)\.(efer|perf-global-ctrl)\.\w+))",
        _EVERY,
        "Userspace that gives a VM the features of the destination changes its processor.",
        "migration",
    ),
    KnownBreach(
        "nested-state-returns-2",
        "migration.no-new-vmfail",
        "resume returns 2",
        _EVERY,
        "What fails behind the checks ends KVM_SET_NESTED_STATE with a number above 0.",
        "nested-state-result",
    ),
    KnownBreach(
        "pin-must-be-1-5.18",
        "nested.usable",
        "(source|destination): a control must be 1 and may not",
        (("5.18", "5.18"), *_FROM_5_18),
        "What must be 1 on the processor must be 1 for L1, offered or not.",
        "migration",
    ),
)


@cache
def known(oracle: str, site: str, kernels: Pair) -> KnownBreach[Pair] | None:
    """Return the entry that covers a site of an oracle for a pair of kernels, None without one."""
    return covering(KNOWN, oracle, site, kernels)
