# SPDX-License-Identifier: GPL-2.0-only
"""What CPUID says on a processor like a profile.

What the profile knows decides: its features, the bits of CR4 that can be 1, the controls that the
processor allows, its address widths. What it does not know is made up so that the leaves agree
with one another: those instructions that every processor with VMX has, four counters, no caches.
SDM: CPUID.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from nvmxfuzz.arch.controls import Primary, Secondary
from nvmxfuzz.arch.features import FEATURES
from nvmxfuzz.arch.registers import Cr4
from nvmxfuzz.arch.vmx_msr import EptVpidCap
from nvmxfuzz.machine.profile import Profile

_EAX, _EBX, _ECX, _EDX = range(4)
_EXTENDED: Final = 0x8000_0000
_FEATURE_BIT: Final = re.compile(r"CPUID\.([0-9A-F]+)H(?:\.([0-9A-F]+)H)?:E([A-D])X\[(\d+)\]")


class Leaf(NamedTuple):
    """What CPUID returns for one value of EAX and ECX, each register 32 bits wide."""

    leaf: int
    subleaf: int
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0


class Place(NamedTuple):
    """One bit of what CPUID returns; register 0 to 3 is EAX to EDX."""

    leaf: int
    subleaf: int
    register: int
    bit: int


def _places(leaf: int, subleaf: int, register: int, *bits: int) -> tuple[Place, ...]:
    return tuple(Place(leaf, subleaf, register, bit) for bit in bits)


_ALWAYS: Final = (
    # FPU, TSC, MSR, CX8, APIC, SEP, MTRR, MCA, CMOV, PAT, PSE-36, CLFSH, MMX, FXSR, SSE, SSE2
    *_places(1, 0, _EDX, 0, 4, 5, 8, 9, 11, 12, 14, 15, 16, 17, 19, 23, 24, 25, 26),
    *_places(1, 0, _ECX, 0, 5),  # SSE3, VMX
)

_BY_CR4: Final[Mapping[int, tuple[Place, ...]]] = {
    Cr4.VME: _places(1, 0, _EDX, 1),
    Cr4.DE: _places(1, 0, _EDX, 2),
    Cr4.PSE: _places(1, 0, _EDX, 3),
    Cr4.PAE: _places(1, 0, _EDX, 6),
    Cr4.MCE: _places(1, 0, _EDX, 7),
    Cr4.PGE: _places(1, 0, _EDX, 13),
    Cr4.OSXSAVE: _places(1, 0, _ECX, 26, 28),  # XSAVE, and AVX which came with it
    Cr4.FSGSBASE: _places(7, 0, _EBX, 0),
    Cr4.SMEP: _places(7, 0, _EBX, 7),
    Cr4.SMAP: _places(7, 0, _EBX, 20),
    Cr4.UMIP: _places(7, 0, _ECX, 2),
    Cr4.PKE: _places(7, 0, _ECX, 3),
    Cr4.KL: _places(7, 0, _ECX, 23),
}
"""A bit of CR4 that can be 1, where no feature of the profile says the same."""

_BY_PRIMARY: Final[Mapping[int, tuple[Place, ...]]] = {
    Primary.MONITOR_EXITING: _places(1, 0, _ECX, 3),
}

_BY_SECONDARY: Final[Mapping[int, tuple[Place, ...]]] = {
    Secondary.ENABLE_RDTSCP: _places(0x8000_0001, 0, _EDX, 27),
    # INVPCID, and the TSC_ADJUST, BMI1 and AVX2 that came with it
    Secondary.ENABLE_INVPCID: _places(7, 0, _EBX, 1, 3, 5, 10),
    Secondary.RDRAND_EXITING: _places(1, 0, _ECX, 30),
    Secondary.RDSEED_EXITING: _places(7, 0, _EBX, 18),
    Secondary.ENABLE_XSAVES_XRSTORS: _places(0xD, 1, _EAX, 0, 1, 2, 3),
    Secondary.ENABLE_USER_WAIT_AND_PAUSE: _places(7, 0, _ECX, 5),
    Secondary.ENABLE_PCONFIG: _places(7, 0, _EDX, 18),
}
"""A control over an instruction: a processor has the control because it has the instruction."""

_WITH_FEATURE: Final[Mapping[str, tuple[Place, ...]]] = {
    "long-mode": (
        *_places(1, 0, _ECX, 13),  # CX16
        *_places(0x8000_0001, 0, _ECX, 0),  # LAHF
        *_places(0x8000_0001, 0, _EDX, 11),  # SYSCALL
        *_places(0x8000_0007, 0, _EDX, 8),  # invariant TSC
    ),
    "x2apic": _places(1, 0, _ECX, 24),  # TSC deadline
    "perf-global-ctrl": _places(1, 0, _ECX, 15),  # PDCM
    "spec-ctrl": _places(7, 0, _EDX, 27, 29, 31),  # STIBP, ARCH_CAPABILITIES, SSBD
    "sgx": _places(7, 0, _ECX, 30),  # launch control
}
"""What the profile does not tell, but what came with a feature that it does tell."""


def _from_vocabulary() -> dict[str, tuple[Place, ...]]:
    """Return the bits of the features whose source in the vocabulary is a bit of CPUID."""
    found: dict[str, tuple[Place, ...]] = {}
    for feature in FEATURES:
        match = _FEATURE_BIT.fullmatch(feature.source)
        if match is not None:
            leaf, subleaf, register, bit = match.groups()
            place = Place(int(leaf, 16), int(subleaf or "0", 16), "ABCD".index(register), int(bit))
            found[feature.name] = (place,)
    return found


_BY_FEATURE: Final[Mapping[str, tuple[Place, ...]]] = _from_vocabulary()


def feature_places(name: str) -> tuple[Place, ...]:
    """Return the CPUID bits that are 1 exactly where a processor has the feature; () if none."""
    return _BY_FEATURE.get(name, ())


def cpuid_of(profile: Profile) -> tuple[Leaf, ...]:
    """Return every leaf of a processor like `profile`, ascending; the others return zeroes."""
    table: dict[tuple[int, int], list[int]] = {}
    for place in _bits(profile):
        registers = table.setdefault((place.leaf, place.subleaf), [0, 0, 0, 0])
        registers[place.register] |= 1 << place.bit
    for add in _VALUES:
        for leaf in add(profile):
            registers = table.setdefault(leaf[:2], [0, 0, 0, 0])
            registers[:] = [old | new for old, new in zip(registers, leaf[2:], strict=True)]
    table[0, 0][_EAX] = max(number for number, _ in table if number < _EXTENDED)
    return tuple(Leaf(*key, *registers) for key, registers in sorted(table.items()))


def _bits(profile: Profile) -> Iterator[Place]:
    caps = profile.caps
    yield from _ALWAYS
    for mask, places in _BY_CR4.items():
        if caps.cr4_fixed1 & mask:
            yield from places
    for mask, places in _BY_PRIMARY.items():
        if caps.primary_may & mask:
            yield from places
    for mask, places in _BY_SECONDARY.items():
        if caps.secondary_may & mask:
            yield from places
    for name in sorted(profile.features):
        yield from _BY_FEATURE.get(name, ())
        yield from _WITH_FEATURE.get(name, ())
    if caps.ept_vpid_cap & EptVpidCap.PAGE_1GB and "long-mode" in profile.features:
        yield Place(0x8000_0001, 0, _EDX, 26)  # pages of 1 GByte


def _identity(profile: Profile) -> Iterator[Leaf]:
    yield Leaf(0, 0, 0, 0x756E_6547, 0x6C65_746E, 0x4965_6E69)  # GenuineIntel
    family, model = min(profile.family, 0xF), profile.model
    signature = (profile.family - family) << 20 | (model >> 4) << 16 | family << 8
    # One processor in the package, APIC ID 0, 64 bytes flushed by CLFLUSH.
    yield Leaf(1, 0, signature | (model & 0xF) << 4 | profile.stepping, 1 << 16 | 8 << 8)
    yield Leaf(6, 0, 1 << 2)  # the APIC timer always runs
    yield Leaf(0x8000_0000, 0, 0x8000_0008)
    yield Leaf(0x8000_0008, 0, profile.linear_address_bits << 8 | profile.maxphyaddr)


def counters_of(profile: Profile) -> tuple[int, int]:
    """Return how many general-purpose and fixed-function performance counters there are."""
    if "perf-global-ctrl" not in profile.features:
        return 2, 0
    if profile.perf_global_ctrl_mask is None:
        return 4, 3
    mask = profile.perf_global_ctrl_mask
    return (mask & 0xFFFF).bit_count(), (mask >> 32 & 0xFFFF).bit_count()


def _performance(profile: Profile) -> Iterator[Leaf]:
    general, fixed = counters_of(profile)
    version = 2 if "perf-global-ctrl" in profile.features else 1
    width = 48
    yield Leaf(0xA, 0, 7 << 24 | width << 16 | general << 8 | version, edx=width << 5 | fixed)


_XSAVE_HEADER_END: Final = 576
_USER_COMPONENTS: Final = ((2, 256, 576), (3, 64, 960), (4, 64, 1024), (9, 8, 2688))
"""State components of XCR0 beside x87 and SSE: AVX, BNDREGS, BNDCSR, PKRU: size, offset."""
_SUPERVISOR_COMPONENTS: Final = (
    (8, 128, "intel-pt"),
    (11, 16, "cet-ss"),
    (12, 24, "cet-ss"),
    (14, 48, "uintr"),
    (15, 808, "arch-lbr"),
)
"""State components of IA32_XSS: PT, CET user, CET supervisor, UINTR, LBR: size, feature."""


def xcr0_of(profile: Profile) -> int:
    """Return the bits that XCR0 can have; 0 where there is no XSAVE."""
    if not profile.caps.cr4_fixed1 & Cr4.OSXSAVE:
        return 0
    bounds = 0b11 << 3 if "mpx" in profile.features else 0
    keys = 1 << 9 if profile.caps.cr4_fixed1 & Cr4.PKE else 0
    return 0b111 | bounds | keys


def xss_of(profile: Profile) -> int:
    """Return the bits that IA32_XSS can have; 0 where there is no XSAVES."""
    if not profile.caps.secondary_may & Secondary.ENABLE_XSAVES_XRSTORS or not xcr0_of(profile):
        return 0
    return sum(1 << bit for bit, _, name in _SUPERVISOR_COMPONENTS if name in profile.features)


def _extended_state(profile: Profile) -> Iterator[Leaf]:
    xcr0, xss = xcr0_of(profile), xss_of(profile)
    if not xcr0:
        return
    used = [component for component in _USER_COMPONENTS if xcr0 >> component[0] & 1]
    end = max(_XSAVE_HEADER_END, *(offset + size for _, size, offset in used))
    yield Leaf(0xD, 0, xcr0, end, end)
    compact = _XSAVE_HEADER_END + sum(size for _, size, _ in used)
    yield Leaf(0xD, 1, 0, compact, xss)
    for bit, size, offset in used:
        yield Leaf(0xD, bit, size, offset)
    for bit, size, _ in _SUPERVISOR_COMPONENTS:
        if xss >> bit & 1:
            yield Leaf(0xD, bit, size, 0, 1)


def _optional(profile: Profile) -> Iterator[Leaf]:
    if "sgx" in profile.features:
        yield Leaf(0x12, 0, 3, 1, 0, 0x241F)  # SGX1 and SGX2, enclaves up to 2^36 bytes
        yield Leaf(0x12, 1, 0x36, 0, 0x1F)
        yield Leaf(0x12, 2, 0x7020_0001, 0, 0x05D8_0001)  # one section of the page cache
    if "intel-pt" in profile.features:
        yield Leaf(0x14, 0, 1, 0xF, 0x7)
        yield Leaf(0x14, 1, 0x0249_0002, 0x003F_3FFF)  # two address ranges
    if "arch-lbr" in profile.features:
        yield Leaf(0x1C, 0, 0xF, 7, 7)


_VALUES: Final[tuple[Callable[[Profile], Iterator[Leaf]], ...]] = (
    _identity,
    _performance,
    _extended_state,
    _optional,
)
