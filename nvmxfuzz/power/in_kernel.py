# SPDX-License-Identifier: GPL-2.0-only
"""The real KVM with all faults in it: built into a cache of its own, beside the usual one.

The two have the sources in common, and the lock. A process that is to find the faulty objects is
given that cache, and the number of one fault, in its environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.power.fault import Fault, kernel_faults
from nvmxfuzz.targets.kvm_native.build.builder import Request, build
from nvmxfuzz.targets.kvm_native.build.cache import VARIABLE, Cache
from nvmxfuzz.targets.kvm_native.build.objects import look_up, standard_cache
from nvmxfuzz.targets.kvm_native.build.planting import Planted, Planting
from nvmxfuzz.targets.kvm_native.build.progress import Progress
from nvmxfuzz.targets.kvm_native.build.source import package_source

CHOICE: Final = "NVMXFUZZ_PLANTED"
"""What planted.c reads."""

VARIANTS: Final = ("plain", "coverage")

_RUNTIME: Final = Path(__file__).with_name("planted.c")
_SHARED: Final = ("trees", "lock")


def build_faulty(kernel: str, jobs: int, progress: Progress) -> None:
    """Build the objects of a kernel that have its faults, if they are not there."""
    source = package_source(kernel)
    planting = Planting(kernel_faults(kernel), _RUNTIME)
    for variant in VARIANTS:
        build(Request(source, variant, jobs, planting=planting), _faulty_cache(), progress)


def chosen(fault: Fault) -> Mapping[str, str]:
    """Return the environment in which KVM has that one fault; InputError if it is not built."""
    assert isinstance(fault.place, Planted)
    found = look_up(_cache(), fault.kernel, VARIANTS[0])
    if isinstance(found, str):
        raise InputError(
            f"KVM of Linux {fault.kernel} with faults is not built: nvmxfuzz bench faults builds it"
        )
    return {VARIABLE: str(_cache().folder.parent), CHOICE: str(fault.place.number)}


def _cache() -> Cache:
    return Cache(standard_cache().folder / "planted" / "kvm")


def _faulty_cache() -> Cache:
    """Return the cache, made if need be."""
    own, usual = _cache(), standard_cache()
    usual.prepare()
    own.folder.mkdir(parents=True, exist_ok=True)
    for name in _SHARED:
        link = own.folder / name
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(usual.folder / name, own.folder))
    return own
