# SPDX-License-Identifier: GPL-2.0-only
"""The machine of a session: KVM in a world, a VM, and in each vCPU an L1 about to execute VMXON."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.registers import Cr4, Rflags
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs import places
from nvmxfuzz.inputs.session_steps import MSRS, VCPUS
from nvmxfuzz.inputs.world import World
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.oracles.restore.worlds import msr_world
from nvmxfuzz.oracles.session.witness import LINEAR_ADDRESSES, PLACE_ADDRESSES
from nvmxfuzz.targets.kvm_native import ioctl_numbers as io
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native import structures as s
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.guest_memory import GuestMemory
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.msrs import hardware_for, module_parameters
from nvmxfuzz.targets.kvm_native.session_vcpu import SessionVcpu, SessionVm
from nvmxfuzz.targets.kvm_native.vcpu import Vcpu, offered
from nvmxfuzz.targets.kvm_native.virtual import features_in, leaves_of
from nvmxfuzz.targets.kvm_native.vm import Machine

L1_RIP: Final = 0xF000
L1_RSP: Final = 0xE000

_TSS: Final = 0xFEFF_D000
_QUIRKS: Final = 213
_STUFF_FEATURE_MSRS: Final = 1 << 8
_VMX_ENABLED: Final = 1 << 0 | 1 << 2
_PDPT: Final = 0x11_0000
PAGE_DIRECTORY: Final = 0x11_1000
_PAGE_TABLE: Final = 0x11_2000
_OPERANDS: Final = 0x12_0000
"""Physical address of the page behind the operands' first page, and so on."""
_PRESENT: Final = 0x1
_TABLE: Final = 0x7
"""Present, writable, user."""
_LARGE: Final = 0x87
_SHADOW: Final = 1 << 31
_REVISION: Final = 0x7FFF_FFFF
_APIC_ENABLED: Final = 1 << 11
_CR0: Final = 0x8005_0033


def boot(library: Library, world: World) -> SessionVm:
    """Load KVM in a world and return the VM; IoctlError if KVM refuses the processor.

    The library must not have KVM loaded: restore its pristine snapshot before.
    """
    loaded = msr_world(world)
    evmcs = library.functions.nvmx_set_hyperv_evmcs(world.evmcs)
    if evmcs and world.evmcs:
        raise InputError("the KVM of this world was built without Hyper-V's enlightened VMCS")
    machine = Machine(library, hardware_for(loaded), module_parameters(library, loaded.params))
    vm = machine.create_vm()
    vm.set_tss_address(_TSS)
    vm.create_irqchip()
    if not world.stuffs_feature_msrs and library.kernel_version >= (6, 12, 0):
        vm.enable_cap(_QUIRKS, _STUFF_FEATURE_MSRS)
    for capability in (io.KVM_CAP_EXCEPTION_PAYLOAD, io.KVM_CAP_X86_TRIPLE_FAULT_EVENT):
        if machine.check_extension(capability):
            vm.enable_cap(capability, 1)
    made = SessionVm(library, machine, vm)
    cpuid = machine.supported_cpuid()
    vcpus = [vm.create_vcpu(number) for number in range(VCPUS)]
    for number, vcpu in enumerate(vcpus):
        _switch_apic(vcpu)
        vcpu.set_cpuid(cpuid)
        prepare(vcpu)
        made.vcpus.append(SessionVcpu(made, vcpu, number))
        _ask_for_msrs(made.vcpus[-1])
    made.bases.profile = _offered(world, vcpus[0])
    _fill(vm.memory, vcpus[0].get_msr(msr.MSR_IA32_VMX_BASIC) or 0)
    return made


def _ask_for_msrs(vcpu: SessionVcpu) -> None:
    for indices in (tuple(MSRS.values()), vcpu.vm.kept_msrs):
        vcpu.get_msrs(indices)
    vcpu.readable_at_first = dict(vcpu.readable)


def _switch_apic(vcpu: Vcpu) -> None:
    """Switch the local APIC off and on: or KVM's map of APICs lacks the vCPU that came last."""
    sregs = vcpu.get_sregs()
    enabled = sregs.apic_base
    for base in (enabled & ~_APIC_ENABLED, enabled):
        sregs.apic_base = base
        vcpu.set_sregs(sregs)


def _offered(world: World, vcpu: Vcpu) -> Profile:
    """Return the profile that L1 finds, as far as reading tells."""
    leaves = leaves_of(vcpu)
    widths = leaves.get((0x8000_0008, 0), (0x3024, 0, 0, 0))[0]
    return replace(
        world.profile,
        name="l1",
        msrs=offered(vcpu),
        features=features_in(leaves),
        maxphyaddr=widths & 0xFF,
        linear_address_bits=widths >> 8 & 0xFF,
    )


def prepare(vcpu: Vcpu) -> None:
    """Make the vCPU a hypervisor about to execute VMXON, if CPUID has VMX."""
    vcpu.set_msr(msr.MSR_IA32_FEAT_CTL, _VMX_ENABLED)
    sregs = l1.sregs(vcpu.get_sregs().apic_base)
    sregs.cr0, sregs.cr3 = _CR0, places.HOST_PAGE_TABLE
    try:
        vcpu.set_sregs(sregs)
    except IoctlError:
        sregs.cr4 &= ~Cr4.VMXE
        vcpu.set_sregs(sregs)
    vcpu.set_regs(s.Regs(rip=L1_RIP, rsp=L1_RSP, rflags=int(Rflags.FIXED1)))
    vcpu.set_mp_state(io.MP_RUNNABLE)


def operand_memory(name: str, vcpu: int) -> int | None:
    """Return the physical address of a memory operand; None if nothing is mapped there."""
    if name not in ("good", "read-only"):
        return None
    return _OPERANDS + LINEAR_ADDRESSES[name][1] - LINEAR_ADDRESSES["good"][1] + vcpu * 0x100


def _fill(memory: GuestMemory, basic: int) -> None:
    """Put into memory what L1 has there: page tables and regions."""
    for root in (places.HOST_PAGE_TABLE, places.GUEST_PAGE_TABLE):
        memory.write_int(root, _PDPT | _TABLE)
    memory.write_int(_PDPT, PAGE_DIRECTORY | _TABLE)
    memory.write_int(PAGE_DIRECTORY, _LARGE)
    memory.write_int(PAGE_DIRECTORY + 8, _PAGE_TABLE | _TABLE)
    memory.write_int(_PAGE_TABLE, _OPERANDS | _TABLE)
    memory.write_int(_PAGE_TABLE + 16, _OPERANDS + 0x2000 | _PRESENT)
    revision = basic & _REVISION
    regions = {
        **dict.fromkeys(("vmxon-region", "other-vmxon-region"), revision),
        **dict.fromkeys(("vmcs-0", "vmcs-1", "vmcs-2"), revision),
        "wrong-revision": revision ^ 1,
        "shadow-vmcs": revision | _SHADOW,
    }
    for name, first_word in regions.items():
        memory.write_int(PLACE_ADDRESSES[name], first_word, 4)
