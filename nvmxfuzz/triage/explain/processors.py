# SPDX-License-Identifier: GPL-2.0-only
"""Which processors may have printed a dump: the published ones it fits, and two around them.

A dump does not say on which processor it was printed. What all of these agree on is taken as
known; where they differ, the answer depends on the processor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, reduce
from operator import and_, or_
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.vmx_msr import VmxBasic
from nvmxfuzz.machine.profile import Profile, load_profile, profile_names
from nvmxfuzz.machine.profile_check import MASKS

STRICTEST: Final = "strictest"
MOST_LENIENT: Final = "most lenient"
_NO_REAL_ONE: Final = "everything"
_LOW: Final = 0xFFFF_FFFF
_WORDS: Final = {
    "pin_based_vm_exec_control": ("pin_must", "pin_may", msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS),
    "cpu_based_vm_exec_control": (
        "primary_must",
        "primary_may",
        msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
    ),
    "vm_exit_controls": ("exit_must", "exit_may", msr.MSR_IA32_VMX_TRUE_EXIT_CTLS),
    "vm_entry_controls": ("entry_must", "entry_may", msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS),
    "secondary_vm_exec_control": (
        "secondary_must",
        "secondary_may",
        msr.MSR_IA32_VMX_PROCBASED_CTLS2,
    ),
}
"""By control word: its two capabilities, and the MSR that has them."""
_ALLOWED: Final = {
    "tertiary_vm_exec_control": msr.MSR_IA32_VMX_PROCBASED_CTLS3,
    "secondary_vm_exit_controls": msr.MSR_IA32_VMX_EXIT_CTLS2,
}
_FIXED_1: Final = (
    msr.MSR_IA32_VMX_CR0_FIXED0,
    msr.MSR_IA32_VMX_CR4_FIXED0,
)
_MORE_IS_MORE: Final = (
    msr.MSR_IA32_VMX_BASIC,
    msr.MSR_IA32_VMX_MISC,
    msr.MSR_IA32_VMX_CR0_FIXED1,
    msr.MSR_IA32_VMX_CR4_FIXED1,
    msr.MSR_IA32_VMX_EPT_VPID_CAP,
    msr.MSR_IA32_VMX_VMFUNC,
    *_ALLOWED.values(),
)
_ADDRESSES: Final = ("host_cr3", "ept_pointer", "virtual_apic_page_addr", "apic_access_addr")
"""Physical addresses that KVM takes from the host: the processor has as many bits at least."""
_ADDRESS_BITS: Final = range(36, 53)


def processors(fields: Mapping[str, int], *, controls_passed: bool) -> tuple[Profile, ...]:
    """Return the processors on which a VMCS may have had `fields`.

    With `controls_passed`, the failure was found behind the checks on controls and host state, so
    that those hold on all processors returned.
    """
    published = _published()
    exact = [profile for profile in published if _fits(profile, fields)]
    fitting = exact or list(published)
    passed = fields if controls_passed else {}
    corners = (
        _corner(STRICTEST, fitting, passed, or_, and_),
        _corner(MOST_LENIENT, [*fitting, load_profile(_NO_REAL_ONE)], passed, and_, or_),
    )
    return (*corners, *(exact if controls_passed else fitting))


@cache
def _published() -> tuple[Profile, ...]:
    profiles = map(load_profile, profile_names())
    return tuple(
        profile
        for profile in profiles
        if "long-mode" in profile.features and _NO_REAL_ONE not in profile.name
    )


def _fits(profile: Profile, fields: Mapping[str, int]) -> bool:
    """Whether the controls, and the host's CR4, are legal on a processor as far as known."""
    caps = profile.caps
    for name, (must, may, _) in _WORDS.items():
        word = fields.get(name)
        if name == "secondary_vm_exec_control" and not word:
            continue
        if word is not None and (getattr(caps, must) & ~word or word & ~getattr(caps, may)):
            return False
    return (
        not fields.get("host_cr4", 0) & ~caps.cr4_fixed1
        and not fields.get("tertiary_vm_exec_control", 0) & ~caps.tertiary_may
        and _least_bits(fields) <= profile.maxphyaddr
    )


def _least_bits(fields: Mapping[str, int]) -> int:
    return max(fields.get(name, 0).bit_length() for name in _ADDRESSES)


_Fold = Callable[[int, int], int]


def _corner(
    name: str, profiles: Sequence[Profile], passed: Mapping[str, int], must: _Fold, may: _Fold
) -> Profile:
    """Return a processor that demands what `must` makes of all demands, and allows likewise."""
    strict = name == STRICTEST
    bits = [profile.maxphyaddr for profile in profiles]
    linear = [profile.linear_address_bits for profile in profiles]
    features = [profile.features for profile in profiles]
    least = max(_ADDRESS_BITS.start, _least_bits(passed))
    return Profile(
        name=name,
        note="",
        family=6,
        model=0,
        stepping=0,
        maxphyaddr=max(min(bits), least) if strict else max(bits),
        linear_address_bits=min(linear) if strict else max(linear),
        msrs=_msrs(profiles, passed, must, may),
        features=frozenset(reduce(may, features)),  # type: ignore[arg-type] # & and | of sets too
        **{key: _mask(profiles, key, may) for key in MASKS},
    )


def _msrs(
    profiles: Sequence[Profile], passed: Mapping[str, int], must: _Fold, may: _Fold
) -> dict[int, int]:
    found: dict[int, int] = {}
    for name, (must_name, may_name, index) in _WORDS.items():
        word = passed.get(name)
        least = _fold(must, (getattr(profile.caps, must_name) for profile in profiles))
        most = _fold(may, (getattr(profile.caps, may_name) for profile in profiles))
        if word is not None:
            least, most = least & word, most | word
        found[index] = least & _LOW | most << 32
    for index in _FIXED_1:
        found[index] = _fold(must, (profile.msrs.get(index, 0) for profile in profiles))
    for index in _MORE_IS_MORE:
        found[index] = _fold(may, (profile.msrs.get(index, 0) for profile in profiles))
    for name, index in _ALLOWED.items():
        found[index] |= passed.get(name, 0)
    found[msr.MSR_IA32_VMX_CR4_FIXED1] |= passed.get("host_cr4", 0)
    found[msr.MSR_IA32_VMX_BASIC] |= VmxBasic.TRUE_CONTROLS
    return found


def _mask(profiles: Sequence[Profile], key: str, may: _Fold) -> int | None:
    known = [mask for profile in profiles if (mask := getattr(profile, key)) is not None]
    return _fold(may, known) if known else None


def _fold(fold: _Fold, values: Iterable[int]) -> int:
    return reduce(fold, values)
