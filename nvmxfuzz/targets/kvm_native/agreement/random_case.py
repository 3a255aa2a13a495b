# SPDX-License-Identifier: GPL-2.0-only
"""Random configurations of KVM, and random VM entries of an L1 on one."""

from __future__ import annotations

import struct
from dataclasses import replace
from random import Random
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.kvm.vcpu import Kvm
from nvmxfuzz.machine.outcome import ENTERED, Outcome, exit_on_entry, fail_valid
from nvmxfuzz.machine.processor import NO_POINTER, Processor
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.targets.kvm_native.agreement.configuration import Configuration, CpuidEdit
from nvmxfuzz.targets.kvm_native.agreement.launch import Launch
from nvmxfuzz.targets.kvm_native.agreement.random_vmcs import (
    ALL,
    LINKED,
    LISTS,
    PDPTES,
    canonical,
    random_pat,
    random_vmcs,
)
from nvmxfuzz.targets.kvm_native.vmcs12 import REVISION, SHADOW

_HOSTS: Final = (
    *("everything", "everything", "skylake-x", "skylake-x", "sapphire-rapids", "ice-lake"),
    *("penryn", "haswell", "broadwell", "tiger-lake", "sandy-bridge"),
)
_PAIRS: Final = {
    msr.MSR_IA32_VMX_PINBASED_CTLS: msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS,
    msr.MSR_IA32_VMX_PROCBASED_CTLS: msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
    msr.MSR_IA32_VMX_EXIT_CTLS: msr.MSR_IA32_VMX_TRUE_EXIT_CTLS,
    msr.MSR_IA32_VMX_ENTRY_CTLS: msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS,
}
_WHOLE: Final = (msr.MSR_IA32_VMX_MISC, msr.MSR_IA32_VMX_EPT_VPID_CAP)
_ON_HOST: Final = (*_PAIRS, msr.MSR_IA32_VMX_PROCBASED_CTLS2, *_WHOLE)
_OFFERED: Final = (
    *_PAIRS.values(),
    msr.MSR_IA32_VMX_PROCBASED_CTLS2,
    *_WHOLE,
    msr.MSR_IA32_VMX_VMFUNC,
)
_FEATURES: Final = ("rtm", "mpx", "la57", "lam", "perf-global-ctrl", "bus-lock-detect")
_PARAMETERS: Final = (
    ("ept", 0.2),
    ("unrestricted_guest", 0.2),
    ("vpid", 0.2),
    ("flexpriority", 0.1),
    ("pml", 0.1),
    ("eptad", 0.1),
    ("enable_apicv", 0.2),
    ("emulate_invalid_guest_state", 0.1),
)
"""Parameters that are on by default, and how often they are turned off."""
_DRY_RUN: Final = 0.2
_ENLIGHTENED: Final = 0.1

_ODD_MSRS: Final = (
    *(0x174, 0x175, 0x176, 0x277, 0x277, 0xC000_0080, 0xC000_0081, 0xC000_0082, 0xC000_0083),
    *(0xC000_0084, 0xC000_0102, 0xC000_0103, 0xC000_0100, 0xC000_0101, 0x1D9, 0x38F, 0x10),
    *(0x3B, 0x1B, 0x48, 0x79, 0x8B, 0x9B, 0x9E, 0x1A0, 0xD90, 0xDA0, 0x800, 0x808, 0x830),
    *(0x200, 0x201, 0x2FF, 0x250, 0x400, 0x401, 0x402, 0xC1, 0x186, 0x309, 0x38D, 0x390),
    *(0x4C1, 0x11, 0x12, 0x140, 0x1FC, 0x6E0, 0x480, 0x48D, 0x3A, 0xC001_0015, 0xC001_0117),
    *(0xC001_001F, 0x4B56_4D01, 0x4B56_4D03, 0x4B56_4D04, 0, 0x570, 0x122, 0x49),
    *(0x10B, 0x11E, 0x17A, 0x17B, 0x280, 0xC001_0058),
)
_USUAL_MSRS: Final = (
    (0x174, 0x10),
    (0x175, 0x6000),
    (0x176, 0x7000),
    (0x277, 0x0007_0406_0007_0406),
    (0xC000_0081, 1),
    (0xC000_0102, 0),
    (0x10, 5),
    (0xC000_0084, 9),
)
_CHOICES: Final = {
    0xC000_0080: (0x500, 0xD00, 0x501, 0xD01, 0x100, 0, 1, 0x900, 1 << 14),
    0x1B: (0xFEE0_0800, 0xFEE0_0900, 0xFEE0_0C00, 0xFEE0_0D00, 0, 0x400),
    0x1A0: (0x1800, 0x1801, 0x85_1889, 0, 0x800),
    **dict.fromkeys((0x38F, 0x390, 0x38D), (0, 1, 0xFF, 1 << 32, 7 << 32, 0x400, 1 << 62, 0xB, 3)),
}
_IN_MEMORY: Final = 0x3F_FFFF
_ENTRIES: Final = {"vm_entry_msr_load": 6, "vm_exit_msr_load": 6, "vm_exit_msr_store": 6}
_LATE_FAILURES: Final = (
    *(exit_on_entry(33, qualification) for qualification in (0, 2, 3, 4)),
    *(exit_on_entry(34, number) for number in (1, 2, 5)),
)


# ---------------------------------------------------------------------- configurations


def random_configuration(source: Random) -> Configuration:
    """Return a processor that lacks some things, parameters, and a vCPU that lacks more."""
    host = load_profile(source.choice(_HOSTS))
    if source.random() < 0.6:
        host = _lesser(source, host)
    parameters = [(name, 0) for name, chance in _PARAMETERS if source.random() < chance]
    parameters += [("error_on_inconsistent_vmcs_config", 0), ("enable_shadow_vmcs", 0)]
    if source.random() < _DRY_RUN:
        parameters.append(("nested_early_check", 1))
    return Configuration(
        host,
        tuple(parameters),
        tuple(_cpuid_edits(source)),
        tuple(_capability_edits(source)),
        irqchip=source.random() < 0.8,
        evmcs=source.random() < _ENLIGHTENED,
    )


def _lesser(source: Random, host: Profile) -> Profile:
    msrs = dict(host.msrs)
    for _ in range(source.choice((1, 2, 4))):
        index = source.choice(_ON_HOST)
        if index in msrs:
            bit = source.randrange(64) if index in _WHOLE else source.randrange(32, 64)
            for each in (index, _PAIRS.get(index, index)):
                if each in msrs:
                    msrs[each] &= ~(1 << bit)
    features = {name for name in host.features if name not in _FEATURES or source.random() < 0.7}
    return replace(host, name="lesser", msrs=msrs, features=frozenset(features))


def _cpuid_edits(source: Random) -> list[CpuidEdit]:
    edits = []
    if source.random() < 0.7:
        width = source.choice((36, 39, 40, 46, 46, 52))
        edits.append(CpuidEdit(0x8000_0008, 0, "eax", 0xFFFF_FF00, width))
    if source.random() < 0.1:
        register = source.choice(("ebx", "ecx", "edx"))
        edits.append(CpuidEdit(7, 0, register, 0xFFFF_FFFF ^ 1 << source.randrange(32)))
    if source.random() < 0.1:
        edits.append(CpuidEdit(0x8000_0001, 0, "edx", 0xFFFF_FFFF ^ 1 << 20))
    return edits


def _capability_edits(source: Random) -> list[tuple[int, int]]:
    edits = []
    for _ in range(source.choice((0, 0, 1, 3))):
        index = source.choice(_OFFERED)
        first = 0 if index in _WHOLE else 32
        edits.append((index, ALL ^ 1 << source.randrange(first, 64)))
    return edits


# ---------------------------------------------------------------------- VM entries


def random_launch(source: Random, kvm: Kvm, capabilities: dict[int, int]) -> Launch:
    """Return what an L1 with these capability MSRs does on `kvm`."""
    processor = _processor(source)
    launch = source.random() < 0.9
    launched = launch == (source.random() < 0.02)
    vmcs12 = random_vmcs(source, capabilities, processor.efer & 0x400 != 0)
    answers = _answers(source, kvm.params.early_consistency_checks)
    if answers and not kvm.params.ept:
        # Else L1 may have no page tables, and die of that once it runs: so it does where KVM
        # loses its CR3, see docs/findings/late-vmfail-cr3.md.
        if len(answers) == 2 and answers[1].kind == "fail-valid":
            answers = (answers[0], ENTERED)
        vmcs12 = vmcs12.replace({"host_cr3": vmcs12.host_cr3 & _IN_MEMORY})
    return Launch(vmcs12, processor, _memory(source), launch, launched, answers)


def _processor(source: Random) -> Processor:
    kind = source.random()
    cr4 = 0x2020
    if kind < 0.85:
        efer = 0x500 | source.choice((0, 0x801, 1, 0x800))
    elif kind < 0.93:
        efer = source.choice((0, 0x800, 1))
    else:
        efer, cr4 = source.choice((0, 1)), 0x2000
    odd = source.random()
    return Processor(
        cr0=0x8000_0031 | source.choice((0, 0x1_0000, 0x8)),
        cr3=0x1000 if source.random() < 0.9 else 0x1020,
        cr4=cr4 | source.choice((0, 0, 0x80, 0x200, 0x600, 0x100)),
        efer=efer,
        cs_l=efer & 0x400 != 0,
        cpl=3 if odd < 0.01 else 0,
        vmxon_pointer=0x5000,
        current_vmcs=NO_POINTER if 0.01 <= odd < 0.02 else 0x6000,
        current_vmcs_is_shadow=0.02 <= odd < 0.03,
        blocking_by_mov_ss=0.03 <= odd < 0.04,
    )


def _answers(source: Random, dry_run: bool) -> tuple[Outcome, ...]:
    """Return what the processor below says; nothing: it is not asked, but for the dry run."""
    if not dry_run and source.random() < 0.7:
        return ()
    kind = source.random()
    if kind < 0.3:
        last: Outcome = ENTERED
    elif kind < 0.6:
        last = fail_valid(7)
    elif kind < 0.63:
        last = fail_valid(8)
    else:
        last = source.choice(_LATE_FAILURES)
    if not dry_run:
        return (last,)
    kind = source.random()
    if kind < 0.15:
        return (fail_valid(source.choice((7, 7, 8))), last)
    return (exit_on_entry(33, 0) if kind < 0.95 else ENTERED, last)


def _memory(source: Random) -> tuple[tuple[int, bytes], ...]:
    parts = {place: _msr_list(source, _ENTRIES[name]) for name, place in LISTS.items()}
    revisions = (REVISION, REVISION | SHADOW, REVISION + 1, 0)
    for place, revision in zip(LINKED, revisions, strict=True):
        parts[place] = struct.pack("<I", revision)
    for place in PDPTES:
        parts[place] = _pdptes(source)
    return tuple(sorted(parts.items()))


def _pdptes(source: Random) -> bytes:
    entries = []
    for _ in range(4):
        kind = source.random()
        value = source.choice((0, 0x1001, 0x2001, 0x3019))
        if kind < 0.05:
            value = 1 | 1 << source.randrange(64)
        if kind > 0.97:
            value = source.getrandbits(64)
        entries.append(value)
    return struct.pack("<4Q", *entries)


def _msr_list(source: Random, count: int) -> bytes:
    entries = bytearray()
    for _ in range(count):
        if source.random() < 0.8:
            index, value = source.choice(_USUAL_MSRS)
            reserved = 0
        else:
            index = source.choice(_ODD_MSRS) if source.random() < 0.95 else source.getrandbits(32)
            value = _msr_value(source, index)
            reserved = 0 if source.random() < 0.97 else 1
        entries += struct.pack("<IIQ", index, reserved, value)
    return bytes(entries)


def _msr_value(source: Random, index: int) -> int:
    if index == msr.MSR_IA32_CR_PAT:
        return random_pat(source)
    if index in _CHOICES:
        return source.choice(_CHOICES[index])
    kind = source.random()
    if kind < 0.4:
        return source.choice((0, 1, 2, 0x10, 0x400, 0x800, 0x1000, 6, 0xFFFF_FFFF, ALL))
    if kind < 0.7:
        return canonical(source)
    return source.getrandbits(64) >> source.randrange(64)
