# SPDX-License-Identifier: GPL-2.0-only
"""A vCPU that has the CPUID of Hyper-V: KVM's code for its guests runs then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from nvmxfuzz.arch.controls import Primary, Secondary
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native.port import VMCALL
from nvmxfuzz.targets.kvm_native.structures import CpuidEntry
from nvmxfuzz.targets.kvm_native.vcpu import Vcpu

_FIRST_LEAF: Final = 0x4000_0000
_LAST_LEAF: Final = 0x4000_00FF
_HV1: Final = int.from_bytes(b"Hv#1", "little")


def be_hyperv(vcpu: Vcpu) -> None:
    """Let CPUID have the interface of Hyper-V in the place of KVM's own."""
    entries = [
        entry for entry in vcpu.get_cpuid() if not _FIRST_LEAF <= entry.function <= _LAST_LEAF
    ]
    entries += [
        CpuidEntry(function=_FIRST_LEAF, eax=_FIRST_LEAF + 5),
        CpuidEntry(function=_FIRST_LEAF + 1, eax=_HV1),
    ]
    vcpu.set_cpuid(entries)


def test_a_vm_entry_flushes_what_hyper_v_has_queued(hypervisor: Callable[..., Any]) -> None:
    """Linux 6.12 looks into a queue, which is a kfifo, if no larger flush comes before it."""
    processor = base("guest-64", load_profile("skylake-x")).vmcs
    with_vpid = {
        "cpu_based_vm_exec_control": processor.cpu_based_vm_exec_control
        | Primary.ACTIVATE_SECONDARY_CONTROLS,
        "secondary_vm_exec_control": Secondary.ENABLE_VPID,
        "virtual_processor_id": 1,
    }
    l1_ = hypervisor(with_vpid, change=be_hyperv)
    assert l1_.step(l1.VMLAUNCH, VMCALL) == 0
    # The first entry of a VPID flushes everything of it.
    assert l1_.step(l1.VMRESUME, VMCALL) == 0
    assert l1_.read("vm_exit_reason") == VMCALL.reason
    assert l1_.machine.machine.library.result().warnings == ()
