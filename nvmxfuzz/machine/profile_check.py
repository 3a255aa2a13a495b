# SPDX-License-Identifier: GPL-2.0-only
"""Checks a profile that comes from outside, and says in a sentence what is wrong with it.

Values of MSRs may be any 64 bits: inconsistent tables are what a fuzzer looks for.
"""

from __future__ import annotations

from collections.abc import Mapping

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import VmEntry, VmExit
from nvmxfuzz.arch.features import FEATURE_BY_NAME
from nvmxfuzz.arch.registers import Cr4
from nvmxfuzz.arch.vmx_msr import VmxBasic, VmxMisc
from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.capabilities import derive_capabilities
from nvmxfuzz.machine.outside import nearest, show, whole_number

MASKS = (
    "debugctl_mask",
    "perf_global_ctrl_mask",
    "rtit_ctl_mask",
    "lbr_ctl_mask",
    "spec_ctrl_mask",
)
KEYS = (
    "name",
    "note",
    "family",
    "model",
    "stepping",
    "maxphyaddr",
    "linear_address_bits",
    "features",
    *MASKS,
    "msrs",
)

_U64 = range(1 << 64)
_INDICES = range(msr.MSR_IA32_VMX_BASIC, msr.MSR_IA32_VMX_EXIT_CTLS2 + 1)
_MAX_TEXT = 4096


def keys(data: Mapping[str, object]) -> None:
    """Refuse a key that no profile has."""
    for key in data:
        if key not in KEYS:
            raise InputError(
                f"a profile has no key {show(key)}{nearest(str(key), KEYS)}; "
                f"its keys are {', '.join(KEYS)}"
            )


def text(data: Mapping[str, object], key: str, default: str) -> str:
    """Return a text of bounded length."""
    value = data.get(key, default)
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise InputError(
            f"{key} of a profile is {show(value)}; give a text of at most {_MAX_TEXT} characters"
        )
    return value


def integer(data: Mapping[str, object], key: str, allowed: range, default: int) -> int:
    """Return a number within `allowed`."""
    if key not in data:
        return default
    value = whole_number(data[key])
    if value is None or value not in allowed:
        raise InputError(
            f"{key} of a profile is {show(data[key])}; "
            f"give a whole number from {allowed[0]} to {allowed[-1]}"
        )
    return value


def linear_address_bits(data: Mapping[str, object]) -> int:
    """Return 48 or 57."""
    value = integer(data, "linear_address_bits", range(1 << 16), 48)
    if value not in (48, 57):
        raise InputError(f"linear_address_bits of a profile is {value}; give 48 or 57")
    return value


def mask(data: Mapping[str, object], key: str) -> int | None:
    """Return the writable bits of an MSR, or None where the profile does not give them."""
    if data.get(key) is None:
        return None
    value = whole_number(data[key])
    if value is None or value not in _U64:
        raise InputError(f"{key} of a profile is {show(data[key])}; give a mask of 64 bits")
    return value


def features(names: object) -> frozenset[str]:
    """Return the features, each of which the vocabulary must know."""
    if not isinstance(names, list | tuple | set | frozenset):
        raise InputError(f"features of a profile is {show(names)}; give a list of names")
    for name in names:
        if not isinstance(name, str) or name not in FEATURE_BY_NAME:
            raise InputError(
                f"{show(name)} is no feature{nearest(str(name), FEATURE_BY_NAME)}; "
                f"the features of a profile are {', '.join(FEATURE_BY_NAME)}"
            )
    return frozenset(names)


def msrs(table: object) -> dict[int, int]:
    """Return the capability MSRs by index, in the order of the indices."""
    if not isinstance(table, Mapping):
        raise InputError(
            f"msrs of a profile is {show(table)}; "
            'give a table of indices and values, such as "0x480" = 0x1'
        )
    found: dict[int, int] = {}
    for key, entry in table.items():
        index = _index(key)
        value = whole_number(entry)
        if value is None or value not in _U64:
            raise InputError(f"MSR {index:#x} is {show(entry)}; give a value of 64 bits")
        if index in found:
            raise InputError(f"MSR {index:#x} is given twice; give it once")
        found[index] = value
    return dict(sorted(found.items()))


def implied(table: Mapping[int, int]) -> frozenset[str]:
    """Return the features that a processor with these capability MSRs gives away."""
    caps = derive_capabilities(table, 52)
    basic = table.get(msr.MSR_IA32_VMX_BASIC, 0)
    misc = table.get(msr.MSR_IA32_VMX_MISC, 0)
    cr4 = table.get(msr.MSR_IA32_VMX_CR4_FIXED1, 0)
    # The SDM has BASIC[48] at 0 on every processor with Intel 64.
    intel64 = bool(basic) and not basic & VmxBasic.PHYSICAL_ADDRESSES_32_BIT
    facts = {
        "long-mode": intel64,
        "nx": intel64,
        "pcid": cr4 & Cr4.PCIDE,
        "smx": cr4 & Cr4.SMXE,
        "la57": cr4 & Cr4.LA57,
        "cet-ss": cr4 & Cr4.CET,
        "cet-ibt": cr4 & Cr4.CET,
        "pks": cr4 & Cr4.PKS,
        "uintr": cr4 & Cr4.UINTR,
        "lass": cr4 & Cr4.LASS,
        "lam": cr4 & Cr4.LAM_SUP,
        "fred": cr4 & Cr4.FRED,
        "mpx": caps.entry_may & VmEntry.LOAD_IA32_BNDCFGS,
        "intel-pt": caps.entry_may & VmEntry.LOAD_IA32_RTIT_CTL or misc & VmxMisc.INTEL_PT_IN_VMX,
        "arch-lbr": caps.entry_may & VmEntry.LOAD_GUEST_IA32_LBR_CTL,
        "spec-ctrl": caps.entry_may & VmEntry.LOAD_IA32_SPEC_CTRL,
        "perf-global-ctrl": caps.exit_may & VmExit.LOAD_IA32_PERF_GLOBAL_CTRL,
        "smm-dual-monitor": caps.dual_monitor,
        # Recent editions of the SDM leave a processor no choice.
        "nmi-requires-no-sti-blocking": bool(basic),
    }
    return frozenset(name for name, holds in facts.items() if holds)


def _index(key: object) -> int:
    index = whole_number(key)
    if index is None or index not in _INDICES:
        raise InputError(
            f"{show(key)} is no VMX capability MSR; "
            f"their indices are {_INDICES[0]:#x} to {_INDICES[-1]:#x}"
        )
    return index
