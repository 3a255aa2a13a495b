# SPDX-License-Identifier: GPL-2.0-only
"""What is left of L1's TSC when VM entry fails at an MSR: docs/findings/failed-load-tsc.md."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import pytest

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Primary, Secondary
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.outcome import ENTERED, Outcome, exit_on_entry
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject
from nvmxfuzz.targets.kvm_native.loop import KvmLoop, on_rules
from nvmxfuzz.targets.kvm_native.port import Exit, Script
from nvmxfuzz.targets.kvm_native.seat import Seat
from nvmxfuzz.targets.kvm_native.vcpu import Vcpu

PLAIN = base("guest-64", load_profile("skylake-x"))
LIST: Final = 0x23000
TSC: Final = 5
NEVER: Final = msr.MSR_FS_BASE
"""VM entry loads it by no list."""
OFFSET: Final = FIELD_BY_NAME["tsc_offset"].encoding
_SOON: Final = 100_000
"""Ticks that no test takes as long as."""


def attempt(*slots: tuple[int, int], **fields: int) -> Attempt:
    """Return a VM entry that loads these MSRs."""
    entries = b"".join(struct.pack("=2Q", *slot) for slot in slots)
    regions = dict(PLAIN.memory.regions) | {LIST: entries}
    edits = {"vm_entry_msr_load_addr": LIST, "vm_entry_msr_load_count": len(slots)}
    vmcs = PLAIN.vmcs.replace(edits | fields)
    return replace(PLAIN, vmcs=vmcs, memory=Memory.of(regions))


@pytest.fixture
def loop(built: BuiltObject) -> Iterator[KvmLoop]:
    with on_rules(built.manifest.kernel) as made:
        yield made


def after(loop: KvmLoop, entry: Attempt, expected: Outcome) -> Vcpu:
    """Return the vCPU on which VM entry has ended as expected."""
    assert loop.run(entry).outcome == expected
    seat = loop._plain._seat(entry.profile)
    assert isinstance(seat, Seat)
    return seat._vcpu


def offset_of(vcpu: Vcpu) -> int:
    """Return what the processor adds to its TSC while L1 runs."""
    functions = vcpu.library.functions
    value: int = functions.nvmx_vmcs_read(functions.nvmx_vmcs(vcpu.address, 1), OFFSET)
    return value


def rdmsr(vcpu: Vcpu) -> int:
    """Return what L1 reads in IA32_TSC where KVM executes RDMSR."""
    read = Exit(ExitReason.MSR_READ, length=2, registers={"rcx": msr.MSR_IA32_TSC})
    vcpu.run(Script(read, l1.OUT, l1.OUT))
    found = vcpu.get_regs()
    value: int = found.rdx << 32 | found.rax
    return value


def test_rdtsc_of_l1_stays_behind(loop: KvmLoop) -> None:
    good, bad = (msr.MSR_IA32_TSC, TSC), (NEVER, 0)
    before = offset_of(after(loop, attempt(), ENTERED))
    moved = [
        (attempt(good), ENTERED),
        (attempt(good, guest_rflags=0xA), exit_on_entry(33)),
    ]
    for entry, expected in moved:
        assert offset_of(after(loop, entry, expected)) != before
    vcpu = after(loop, attempt(good, bad), exit_on_entry(34, 2))
    assert offset_of(vcpu) == before
    # For KVM it has moved, all the same: here it counts from what the list has for it.
    assert TSC < (vcpu.get_msr(msr.MSR_IA32_TSC) or 0) < rdmsr(vcpu) < TSC + _SOON
    assert offset_of(vcpu) == before


@pytest.mark.parametrize("fails_at_msr", [False, True])
def test_rdmsr_of_l1_goes_at_the_rate_of_l2(loop: KvmLoop, fails_at_msr: bool) -> None:
    primary = Primary.USE_TSC_OFFSETTING | Primary.ACTIVATE_SECONDARY_CONTROLS
    scaled = {
        "cpu_based_vm_exec_control": PLAIN.vmcs.cpu_based_vm_exec_control | primary,
        "secondary_vm_exec_control": int(Secondary.USE_TSC_SCALING),
        "tsc_multiplier": 1000 << 48,
    }
    if fails_at_msr:
        vcpu = after(loop, attempt((NEVER, 0), **scaled), exit_on_entry(34, 1))
    else:
        vcpu = after(loop, attempt(guest_rflags=0xA, **scaled), exit_on_entry(33))
    own = vcpu.get_msr(msr.MSR_IA32_TSC)
    assert own is not None
    factor = rdmsr(vcpu) // own
    assert factor > 100 if fails_at_msr else factor < 5
