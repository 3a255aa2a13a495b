# SPDX-License-Identifier: GPL-2.0-only
"""Hosts with more counters than Linux 6.1 has room for: docs/findings/performance-counters.md."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Final

import pytest

from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.oracles.kvm.entry import kvm_oracles
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject
from nvmxfuzz.targets.kvm_native.hardware import hardware_of
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.port import Script
from nvmxfuzz.targets.kvm_native.results import Stopped
from nvmxfuzz.targets.kvm_native.target import KvmTarget
from nvmxfuzz.targets.kvm_native.vcpu import Vcpu
from nvmxfuzz.targets.kvm_native.vm import fresh

_PERFCTR0: Final = 0xC1
_EVNTSEL0: Final = 0x186
_FIXED_CTR0: Final = 0x309
_SIZE: Final = 8192
"""Bytes of struct kvm_vcpu that are looked at."""
_UNUSED: Final = 0x1234
"""An event that no counter counts: it is not enabled."""


def host(counters: int) -> Profile:
    """Return a processor with so many general-purpose counters."""
    mask = (1 << counters) - 1 | 7 << 32
    return replace(load_profile("skylake-x"), name="counters", perf_global_ctrl_mask=mask)


def vcpu_on(library: Library, counters: int) -> Vcpu:
    return fresh(library, hardware_of(host(counters))).vcpu


@pytest.mark.parametrize("counters", [8, 11, 12, 32])
def test_the_first_instruction_that_kvm_emulates(library: Library, counters: int) -> None:
    vcpu = vcpu_on(library, counters)
    if library.kernel_version < (6, 3) and counters >= 12:
        with pytest.raises(Stopped, match=r"^SIGSEGV in intel_pmc_is_enabled"):
            vcpu.run(Script(l1.HLT))
    else:
        assert str(vcpu.run(Script(l1.HLT))) == "hlt"


def test_the_ninth_counter_is_a_fixed_one(library: Library) -> None:
    vcpu = vcpu_on(library, 9)
    taken = vcpu.set_msr(_PERFCTR0 + 8, 5)
    assert taken == (library.kernel_version < (6, 3))
    assert vcpu.get_msr(_FIXED_CTR0) == (5 if taken else 0)


def address_of(library: Library, built: BuiltObject, name: str) -> int:
    """Return where a function of KVM is, from where one of ours is."""
    lines = (line.split() for line in built.symbols.read_text().splitlines())
    offsets = {words[-1]: int(words[0], 16) for words in lines if len(words) == 3}
    ours = ctypes.cast(library.functions.nvmx_get_cr, ctypes.c_void_p).value or 0
    return ours - offsets["nvmx_get_cr"] + offsets[name]


def test_the_twelfth_event_replaces_a_pointer_to_a_function(
    library: Library, built: BuiltObject
) -> None:
    vcpu = vcpu_on(library, 12)
    before = ctypes.string_at(vcpu.address, _SIZE)
    taken = vcpu.set_msr(_EVNTSEL0 + 11, _UNUSED)
    after = ctypes.string_at(vcpu.address, _SIZE)
    at = after.find(_UNUSED.to_bytes(8, "little"))
    assert taken == (at >= 0) == (library.kernel_version < (6, 3))
    if taken:
        replaced = int.from_bytes(before[at : at + 8], "little")
        assert replaced == address_of(library, built, "kvm_pmi_trigger_fn")


def test_a_host_on_which_no_l1_lives_is_told_as_such(library: Library, built: BuiltObject) -> None:
    attempt = base("guest-64", host(12))
    with KvmTarget(built.kernel, load=lambda: library) as target:
        always, _ = kvm_oracles(target)
        found = [oracle.check(EntryCase(attempt), vm_entry) for oracle in always]
        fired = {finding.oracle for finding in found if finding is not None}
        for seen in (target.run(attempt), target.follow(attempt).observation):
            if built.kernel == "6.1":
                assert seen.status == "died"
                assert seen.reason.startswith("SIGSEGV in intel_pmc_is_enabled")
                assert "kvm.survives" in fired
            else:
                assert seen.outcome == ENTERED
                assert fired == set()
        assert target.run(base("guest-64", host(11))).outcome == ENTERED
