# SPDX-License-Identifier: GPL-2.0-only
"""A hypervisor in L1 through KVM_RUN, from VMXON to VMXOFF, with a processor behind the port."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.arch.msr import MSR_IA32_FEAT_CTL
from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.inputs.places import CURRENT_VMCS
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native import structures as s
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.port import VMCALL, FailedEntry, Script, VmFail
from nvmxfuzz.targets.kvm_native.results import Stopped

HLT_RSM = b"\xf4\x0f\xaa"

MakeHypervisor: TypeAlias = Callable[..., Any]


def test_a_program_from_vmxon_to_vmxoff(hypervisor: MakeHypervisor) -> None:
    l1_ = hypervisor()
    assert l1_.step(l1.VMLAUNCH, VMCALL) == 0
    assert l1_.read("vm_exit_reason") == VMCALL.reason
    assert l1_.step(l1.VMRESUME, VMCALL) == 0
    assert l1_.step(l1.VMXOFF) == 0
    assert l1_.vcpu.get_nested_state().vmxon_pa == s.NO_ADDRESS
    assert l1_.machine.machine.library.result().warnings == ()


def test_l2_stays_until_something_leaves_it(hypervisor: MakeHypervisor) -> None:
    l1_ = hypervisor()
    with pytest.raises(Stopped) as stopped:
        l1_.vcpu.run(Script(l1.VMLAUNCH))
    assert stopped.value.result.status == "port"


@pytest.mark.parametrize(
    ("edits", "error", "check"),
    [
        ({"pin_based_vm_exec_control": 0}, 7, "pin_based_vm_exec_control"),
        ({"host_cr0": 0}, 8, "host_cr0"),
    ],
)
def test_kvms_checks_end_in_vmfail(
    hypervisor: MakeHypervisor, edits: dict[str, int], error: int, check: str
) -> None:
    l1_ = hypervisor(edits)
    assert str(l1_.vcpu.run(Script(l1.VMLAUNCH, l1.HLT))) == "hlt"
    checks = l1_.machine.machine.library.result().checks
    assert check in checks[0].text
    assert l1_.vcpu.get_regs().rflags & Rflags.ZF
    assert l1_.read("vm_instruction_error") == error


def test_kvms_checks_on_the_guest_end_in_an_exit(hypervisor: MakeHypervisor) -> None:
    l1_ = hypervisor({"vmcs_link_pointer": 0x123})
    l1_.step(l1.VMLAUNCH)
    assert l1_.read("vm_exit_reason") == 1 << 31 | 33
    assert l1_.read("exit_qualification") == 4


@pytest.mark.parametrize("parameters", [{}, {"ept": 0}])
def test_the_hardware_refuses_after_kvm_has_let_pass(
    hypervisor: MakeHypervisor, parameters: dict[str, int]
) -> None:
    l1_ = hypervisor(**parameters)
    assert l1_.step(l1.VMLAUNCH, VmFail(7)) == Rflags.ZF
    assert l1_.read("vm_instruction_error") == 7


def test_the_hardware_finds_the_guest_state_invalid(hypervisor: MakeHypervisor) -> None:
    l1_ = hypervisor()
    l1_.step(l1.VMLAUNCH, FailedEntry(33, 0))
    assert l1_.read("vm_exit_reason") == 1 << 31 | 33


def test_an_early_check_asks_the_hardware_first(hypervisor: MakeHypervisor) -> None:
    l1_ = hypervisor(nested_early_check=1)
    assert l1_.step(l1.VMLAUNCH, VmFail(7)) == Rflags.ZF
    assert l1_.read("vm_instruction_error") == 7
    # One that fails for the guest state is what the early check hopes for: the entry follows.
    assert l1_.step(l1.VMLAUNCH, FailedEntry(33), VMCALL) == 0
    assert l1_.read("vm_exit_reason") == VMCALL.reason


def test_an_smi_leaves_l2_and_rsm_comes_back(hypervisor: MakeHypervisor) -> None:
    l1_ = hypervisor()
    vcpu, memory = l1_.vcpu, l1_.machine.vm.memory
    memory.write(l1.SMI_HANDLER, HLT_RSM)
    assert str(vcpu.run(Script(l1.VMLAUNCH, l1.HLT))) == "hlt"
    assert vcpu.in_l2()
    rip = vcpu.get_regs().rip
    vcpu.smi()
    assert str(vcpu.run(Script(l1.HLT))) == "hlt"
    assert vcpu.get_events().smi.smm == 1
    assert not vcpu.in_l2()
    assert vcpu.get_nested_state().smm_flags == s.NESTED_SMM_GUEST_MODE | s.NESTED_SMM_VMXON
    assert str(vcpu.run(Script(l1.UNDEFINED_OPCODE, l1.HLT))) == "hlt"
    assert vcpu.in_l2()
    assert vcpu.get_events().smi.smm == 0
    assert vcpu.get_regs().rip == rip + l1.HLT.length


def test_state_in_l2_can_be_moved_to_a_fresh_vcpu(hypervisor: MakeHypervisor) -> None:
    l1_ = hypervisor()
    machine, vcpu = l1_.machine, l1_.vcpu
    vcpu.run(Script(l1.VMLAUNCH, l1.HLT))
    assert vcpu.in_l2()
    state, sregs, regs = vcpu.get_nested_state(), vcpu.get_sregs(), vcpu.get_regs()
    assert state.flags & s.NESTED_GUEST_MODE
    content = machine.vm.memory.read(0, 1 << 20)
    machine.renew()
    machine.vm.memory.write(0, content)
    vcpu.set_msr(MSR_IA32_FEAT_CTL, 5)
    vcpu.set_sregs(sregs)
    vcpu.set_regs(regs)
    vcpu.set_nested_state(state)
    assert vcpu.in_l2()
    assert bytes(vcpu.get_nested_state()) == bytes(state)
    assert l1_.step(VMCALL) == 0
    assert not vcpu.in_l2()
    assert l1_.read("vm_exit_reason") == VMCALL.reason


@pytest.mark.parametrize("name", ["host_cr0", "guest_cr4", "vmcs_link_pointer"])
def test_spoilt_state_in_l2_is_refused(hypervisor: MakeHypervisor, name: str) -> None:
    l1_ = hypervisor()
    vcpu, library = l1_.vcpu, l1_.machine.machine.library
    vcpu.run(Script(l1.VMLAUNCH, l1.HLT))
    state = vcpu.get_nested_state()
    offset = library.functions.nvmx_vmcs12_offset(FIELD_BY_NAME[name].encoding)
    state.vmcs12[offset : offset + 8] = b"\x23\x01" + bytes(6)
    l1_.step(VMCALL)
    with pytest.raises(IoctlError) as refused:
        vcpu.set_nested_state(state)
    assert (refused.value.errno, refused.value.name) == (errno.EINVAL, "KVM_SET_NESTED_STATE")
    assert library.result().checks
    assert not vcpu.in_l2()


def test_instructions_with_memory_operands_find_them(hypervisor: MakeHypervisor) -> None:
    l1_ = hypervisor()
    memory = l1_.machine.vm.memory
    place = l1.OPERANDS + 0x100
    assert l1_.step(l1.vmptrst(place)) == 0
    assert memory.read_int(place) == CURRENT_VMCS
    # All contexts: the descriptor is read and not used.
    assert l1_.step(l1.invept(2, place)) == 0
    assert l1_.step(l1.invvpid(2, place)) == 0
    assert l1_.step(l1.invvpid(7, place)) == Rflags.ZF
    assert l1_.read("vm_instruction_error") == 28
