# SPDX-License-Identifier: GPL-2.0-only
"""An L1 that executes VMLAUNCH on KVM, for tests that change one thing about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeAlias

import pytest

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.kvm.entry_run import NestedEntry
from nvmxfuzz.kvm.hardware import Hardware
from nvmxfuzz.kvm.host import ModuleParams
from nvmxfuzz.kvm.nested_enter import vm_entry
from nvmxfuzz.kvm.nested_kvm import entry_request, nested_kvm
from nvmxfuzz.kvm.vcpu import EntryRequest, Kvm
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.profile import Profile, load_profile

Launch: TypeAlias = Callable[..., NestedEntry]

TOLERANT = ModuleParams(error_on_inconsistent_vmcs_config=False)


@lru_cache(maxsize=64)
def loaded(processor: str, version: str, params: ModuleParams) -> tuple[Kvm, Profile]:
    """Return KVM and L1's processor, once for all tests."""
    return nested_kvm(load_profile(processor), version, params)


@pytest.fixture(scope="session")
def launch() -> Launch:
    """Let an L1 launch a 64-bit L2 that nothing is wrong with, but for what a test changes.

    `bits` are added to fields of vmcs12, `edits` replace them; `kvm` and `request` change what the
    vCPU is and what L1 does.
    """

    def run(
        edits: Mapping[str, int] | None = None,
        bits: Mapping[str, int] | None = None,
        *,
        version: str = "6.12",
        processor: str = "everything",
        guest: str = "guest-64",
        params: ModuleParams = TOLERANT,
        memory: Mapping[int, bytes] | None = None,
        hardware: Hardware | None = None,
        kvm: Callable[[Kvm], Kvm] = lambda same: same,
        request: Callable[[EntryRequest], EntryRequest] = lambda same: same,
    ) -> NestedEntry:
        module, virtual = loaded(processor, version, params)
        attempt = base(guest, virtual)
        vmcs12 = attempt.vmcs
        added = {name: vmcs12.__dict__[name] | value for name, value in (bits or {}).items()}
        wanted = entry_request(attempt)
        changed = memory or {}
        plain = {at: data for at, data in wanted.memory.regions if at not in changed}
        wanted = EntryRequest(
            vmcs12=vmcs12.replace({**added, **(edits or {})}),
            l1=wanted.l1,
            memory=Memory.of({**plain, **changed}),
            nested=wanted.nested,
        )
        return vm_entry(kvm(module), request(wanted), hardware)

    return run
