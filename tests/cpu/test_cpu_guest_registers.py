# SPDX-License-Identifier: GPL-2.0-only
"""What the vectors of the guest's registers cannot show: processors that no profile describes."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest

from nvmxfuzz.arch.controls import VmEntry
from nvmxfuzz.arch.msr import MSR_IA32_VMX_CR0_FIXED1
from nvmxfuzz.arch.registers import Cr0
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.outcome import ENTERED, exit_on_entry
from nvmxfuzz.machine.profile import load_profile

RESERVED_EVERYWHERE = 1 << 63


class Varying(NamedTuple):
    """A register whose bits vary by processor, and one bit that some processor has."""

    rule: str
    load: int
    field: str
    bit: int


REGISTERS = [
    Varying("debugctl", VmEntry.LOAD_DEBUG_CONTROLS, "guest_ia32_debugctl", 0x4),
    Varying(
        "perf-global-ctrl",
        VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL,
        "guest_ia32_perf_global_ctrl",
        0x1,
    ),
    Varying("rtit-ctl", VmEntry.LOAD_IA32_RTIT_CTL, "guest_ia32_rtit_ctl", 0x2),
    Varying("lbr-ctl", VmEntry.LOAD_GUEST_IA32_LBR_CTL, "guest_ia32_lbr_ctl", 0x2),
]


def judge(register: Varying, value: int) -> Judgement:
    """Return what is said of `value` on a processor that has everything and tells no mask."""
    profile = replace(
        load_profile("everything"),
        debugctl_mask=None,
        perf_global_ctrl_mask=None,
        rtit_ctl_mask=None,
        lbr_ctl_mask=None,
    )
    attempt = base("guest-64", profile)
    controls = attempt.vmcs.vm_entry_controls | register.load
    fields = {"vm_entry_controls": controls, register.field: value}
    return vm_entry(replace(attempt, vmcs=attempt.vmcs.replace(fields)))


@pytest.mark.parametrize("register", REGISTERS, ids=lambda register: register.rule)
def test_zero_is_legal_in_a_register_without_a_known_mask(register: Varying) -> None:
    assert judge(register, 0).permitted == (ENTERED,)


@pytest.mark.parametrize("register", REGISTERS, ids=lambda register: register.rule)
def test_a_bit_that_some_processor_has_is_unknown_without_a_mask(register: Varying) -> None:
    found = judge(register, register.bit)
    assert found.unknown_names == (f"guest.{register.rule}.reserved",)
    assert found.permitted == (ENTERED, exit_on_entry(33))


@pytest.mark.parametrize("register", REGISTERS, ids=lambda register: register.rule)
def test_a_bit_that_no_processor_has_is_reserved_without_a_mask(register: Varying) -> None:
    found = judge(register, RESERVED_EVERYWHERE | register.bit)
    assert found.broken_names == (f"guest.{register.rule}.reserved",)
    assert found.permitted == (exit_on_entry(33),)


@pytest.mark.parametrize(
    ("start", "broken"), [("guest-real", ()), ("guest-64", ("guest.cr0.must-be-0",))]
)
def test_only_an_unrestricted_guest_may_set_pe_where_fixed1_has_it_0(
    start: str, broken: tuple[str, ...]
) -> None:
    profile = load_profile("skylake-x")
    msrs = {**profile.msrs, MSR_IA32_VMX_CR0_FIXED1: 0xFFFF_FFFF & ~Cr0.PE}
    attempt = base(start, profile)
    vmcs = attempt.vmcs.replace({"guest_cr0": attempt.vmcs.guest_cr0 | Cr0.PE})
    found = vm_entry(replace(attempt, profile=replace(profile, msrs=msrs), vmcs=vmcs))
    assert tuple(name for name in found.broken_names if name.startswith("guest.cr0")) == broken
