# SPDX-License-Identifier: GPL-2.0-only
"""A processor: its VMX capability MSRs and the other facts that VM entry depends on."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from types import MappingProxyType

from nvmxfuzz.errors import InputError
from nvmxfuzz.machine import profile_check as check
from nvmxfuzz.machine.capabilities import Capabilities, derive_capabilities
from nvmxfuzz.machine.outside import nearest, show

DEFAULT_PROFILE = "skylake-x"

_FOLDER = "profiles"
_SUFFIX = ".toml"


@dataclass(frozen=True, slots=True)
class Profile:
    """One processor. `caps` is what its MSRs mean; the rest is what they cannot say.

    A `*_mask` holds the bits of that MSR that WRMSR can set, or None where that is not known.
    `msrs` holds the VMX capability MSRs that exist; an MSR that is not there does not exist, or
    was not published (the note says so).
    """

    name: str
    note: str
    family: int
    model: int
    stepping: int
    maxphyaddr: int
    linear_address_bits: int
    msrs: Mapping[int, int] = field(hash=False)
    features: frozenset[str]
    debugctl_mask: int | None = None
    perf_global_ctrl_mask: int | None = None
    rtit_ctl_mask: int | None = None
    lbr_ctl_mask: int | None = None
    spec_ctrl_mask: int | None = None
    caps: Capabilities = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "msrs", MappingProxyType(dict(self.msrs)))
        object.__setattr__(self, "features", frozenset(self.features))
        object.__setattr__(self, "caps", derive_capabilities(self.msrs, self.maxphyaddr))

    def __reduce__(self) -> tuple[object, ...]:
        # A read-only view of a mapping cannot be pickled; what it was made from can.
        return Profile.from_mapping, (self.to_mapping(),)

    @classmethod
    def from_mapping(cls, data: Mapping[str, object], name: str = "custom") -> Profile:
        """Check `data` (a TOML or JSON table) and make a profile of it.

        Every key may be left out. MAXPHYADDR is then 36, what the SDM has where CPUID does not
        tell; linear addresses have 48 bits; features are those that the MSRs give away; masks
        are unknown. Raises InputError for an unknown key and for every bad value.
        """
        check.keys(data)
        msrs = check.msrs(data.get("msrs", {}))
        features = data.get("features")
        return cls(
            name=check.text(data, "name", name),
            note=check.text(data, "note", ""),
            family=check.integer(data, "family", range(0x200), 6),
            model=check.integer(data, "model", range(0x100), 0),
            stepping=check.integer(data, "stepping", range(0x10), 0),
            maxphyaddr=check.integer(data, "maxphyaddr", range(32, 53), 36),
            linear_address_bits=check.linear_address_bits(data),
            msrs=msrs,
            features=check.implied(msrs) if features is None else check.features(features),
            **{key: check.mask(data, key) for key in check.MASKS},
        )

    def to_mapping(self) -> dict[str, object]:
        """Return the table from which `from_mapping` makes this profile again."""
        facts = {key: getattr(self, key) for key in check.KEYS if key not in check.MASKS}
        masks = {key: getattr(self, key) for key in check.MASKS}
        known = {key: value for key, value in masks.items() if value is not None}
        msrs = {f"{index:#x}": value for index, value in sorted(self.msrs.items())}
        return {**facts, **known, "features": sorted(self.features), "msrs": msrs}


@cache
def profile_names() -> tuple[str, ...]:
    """Return the names of the profiles that come with the project, sorted."""
    files = resources.files(__package__).joinpath(_FOLDER).iterdir()
    names = (file.name for file in files)
    return tuple(sorted(name[: -len(_SUFFIX)] for name in names if name.endswith(_SUFFIX)))


@cache
def load_profile(name: str) -> Profile:
    """Return the profile `name`; InputError tells which names there are."""
    names = profile_names()
    if name not in names:
        raise InputError(
            f"no profile is named {show(name)}{nearest(name, names)}; "
            f"the profiles are {', '.join(names)}"
        )
    file = resources.files(__package__).joinpath(_FOLDER, name + _SUFFIX)
    return Profile.from_mapping(tomllib.loads(file.read_text("utf-8")), name)
