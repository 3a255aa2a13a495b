# SPDX-License-Identifier: GPL-2.0-only
"""L1's CPUID, as far as it decides VMX capability MSRs; and what of it KVM supports.

A feature is named as the kernel names X86_FEATURE_*, without the prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

EAX, EBX, ECX, EDX = range(4)

CPUID_BITS: Mapping[str, tuple[int, int, int, int]] = MappingProxyType(
    {
        "VME": (1, 0, EDX, 1),
        "DE": (1, 0, EDX, 2),
        "PSE": (1, 0, EDX, 3),
        "TSC": (1, 0, EDX, 4),
        "PAE": (1, 0, EDX, 6),
        "MCE": (1, 0, EDX, 7),
        "PGE": (1, 0, EDX, 13),
        "FXSR": (1, 0, EDX, 24),
        "XMM": (1, 0, EDX, 25),
        "VMX": (1, 0, ECX, 5),
        "SMX": (1, 0, ECX, 6),
        "PCID": (1, 0, ECX, 17),
        "XSAVE": (1, 0, ECX, 26),
        "RDRAND": (1, 0, ECX, 30),
        "FSGSBASE": (7, 0, EBX, 0),
        "SGX": (7, 0, EBX, 2),
        "SMEP": (7, 0, EBX, 7),
        "INVPCID": (7, 0, EBX, 10),
        "MPX": (7, 0, EBX, 14),
        "RDSEED": (7, 0, EBX, 18),
        "SMAP": (7, 0, EBX, 20),
        "UMIP": (7, 0, ECX, 2),
        "PKU": (7, 0, ECX, 3),
        "OSPKE": (7, 0, ECX, 4),
        "WAITPKG": (7, 0, ECX, 5),
        "LA57": (7, 0, ECX, 16),
        "RDPID": (7, 0, ECX, 22),
        "SGX_LC": (7, 0, ECX, 30),
        "LAM": (7, 1, EAX, 26),
        "XSAVES": (0xD, 1, EAX, 3),
        "NX": (0x8000_0001, 0, EDX, 20),
        "RDTSCP": (0x8000_0001, 0, EDX, 27),
    }
)
"""Feature -> (leaf, subleaf, register, bit position)."""

_RUNTIME = frozenset({"OSPKE"})
"""Of a guest's CPUID, KVM computes these from CR4 whatever userspace said."""

_HYPERV_INTERFACE = 0x4000_0001
_HYPERV_SIGNATURE = 0x3123_7648
_HYPERV_NESTED_FEATURES = 0x4000_000A
_SIGNIFICANT_INDEX = 1
_PERFMON = 0xA


@dataclass(frozen=True, slots=True)
class CpuidEntry:
    """struct kvm_cpuid_entry2; `flags` bit 0: the subleaf counts."""

    function: int
    index: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int


@dataclass(frozen=True, slots=True)
class GuestCpuid:
    """What KVM_SET_CPUID2 was given."""

    features: frozenset[str] = frozenset()
    pmu_version: int | None = None
    """Version of architectural performance monitoring; None without leaf 0AH."""
    hyperv: bool = False
    """The hypervisor interface is that of Hyper-V."""
    evmcs_perf_global_ctrl: bool = False
    """Hyper-V's nested features: the enlightened VMCS has PERF_GLOBAL_CTRL."""

    @classmethod
    def of(cls, entries: Iterable[CpuidEntry]) -> GuestCpuid:
        """Return what the entries of KVM_SET_CPUID2 or KVM_GET_SUPPORTED_CPUID say."""
        known = tuple(entries)
        features = (
            name
            for name, place in CPUID_BITS.items()
            if name not in _RUNTIME and _has(known, *place)
        )
        perfmon = _find(known, _PERFMON, 0)
        interface = _find(known, _HYPERV_INTERFACE, None)
        hyperv = interface is not None and interface.eax == _HYPERV_SIGNATURE
        nested = _find(known, _HYPERV_NESTED_FEATURES, None) if hyperv else None
        return cls(
            frozenset(features),
            None if perfmon is None else perfmon.eax & 0xFF,
            hyperv,
            nested is not None and nested.ebx & 1 != 0,
        )


NO_CPUID = GuestCpuid()


def _find(entries: tuple[CpuidEntry, ...], function: int, index: int | None) -> CpuidEntry | None:
    """cpuid_entry2_find(): the first entry of that function whose subleaf fits or does not count.

    `index` None: the subleaf of this function never counts.
    """
    for entry in entries:
        if entry.function == function:
            counts = entry.flags & _SIGNIFICANT_INDEX and index is not None
            if not counts or entry.index == index:
                return entry
    return None


def _has(
    entries: tuple[CpuidEntry, ...], leaf: int, subleaf: int, register: int, position: int
) -> bool:
    indexed = leaf in (7, 0xD)
    entry = _find(entries, leaf, subleaf if indexed else None)
    if entry is None:
        return False
    value = (entry.eax, entry.ebx, entry.ecx, entry.edx)[register]
    return value >> position & 1 != 0
