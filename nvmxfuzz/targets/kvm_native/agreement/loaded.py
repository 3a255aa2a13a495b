# SPDX-License-Identifier: GPL-2.0-only
"""KVM loaded with a configuration, and the same thing as the model's `Kvm`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.kvm.entry_behaviour import EntryBehaviour
from nvmxfuzz.kvm.vcpu import EntryParams, Evmcs, HostState, Kvm
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES, VirtualCpu
from nvmxfuzz.kvm.vmcs_config import VmcsConfig
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native.agreement.configuration import Configuration, CpuidEdit
from nvmxfuzz.targets.kvm_native.direct import ConfigSetup, Direct, l1_of
from nvmxfuzz.targets.kvm_native.hardware import Hardware, hardware_of
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.port import FailedEntry, Script
from nvmxfuzz.targets.kvm_native.structures import CpuidEntry
from nvmxfuzz.targets.kvm_native.virtual import virtual_profile
from nvmxfuzz.targets.kvm_native.vm import Fresh, boot
from nvmxfuzz.targets.kvm_native.vmcs02 import vmcs_at

_PARAMETERS: Final = {
    "ept": "ept",
    "ept_ad_bits": "eptad",
    "unrestricted_guest": "unrestricted_guest",
    "vpid": "vpid",
    "pml": "pml",
    "flexpriority": "flexpriority",
    "apicv": "enable_apicv",
    "early_consistency_checks": "nested_early_check",
    "allow_smaller_maxphyaddr": "allow_smaller_maxphyaddr",
    "vmware_backdoor": "enable_vmware_backdoor",
    "emulate_invalid_guest_state": "emulate_invalid_guest_state",
}
"""What the model calls a parameter -> the kernel's name. KVM writes its decisions there."""

_L1: Final = Processor()
_PAT: Final = 0x277
_EFER: Final = 0xC000_0080
_RDTSCP: Final = ((0x8000_0001, 0, "edx", 27), (7, 0, "ecx", 22))
_XSAVES: Final = (0xD, 1, "eax", 3)
_HYPERVISOR: Final = 0x4000_0000
_HYPERV: Final = (
    (_HYPERVISOR, 0x4000_000A, 0x7263_694D, 0x666F_736F, 0x7648_2074),  # Microsoft Hv
    (_HYPERVISOR + 1, 0x3123_7648, 0, 0, 0),  # Hv#1
    (_HYPERVISOR + 3, 0x7F, 0, 0, 0),
    (_HYPERVISOR + 4, 1 << 14, 0, 0, 0),
    (_HYPERVISOR + 0xA, 1, 1, 0, 0),
)
_USED: Final = 0x7000
"""How much memory, from 0, `l1.prepare` and L1 itself have used."""
_PERFORMANCE: Final = (0xA, 0)
_FIXED_COUNTERS: Final = 3
_UMIP: Final = (7, 0, 2, 2)
_SPEC_CTRL: Final = (7, 0, "edx", 26)
_SPEC_CTRL_MSR: Final = (_SPEC_CTRL, (7, 0, "edx", 27), (7, 0, "edx", 31))
_PDCM: Final = (1, 0, "ecx", 15)
_FLUSH_L1D: Final = (7, 0, "edx", 28)

Leaves = Mapping[tuple[int, int], CpuidEntry]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A machine to come back to, with L1 in VMX operation, and what the model has for it."""

    made: Fresh
    direct: Direct
    kvm: Kvm
    virtual: Profile
    """The processor that L1 finds."""
    evmcs: Evmcs | None = None
    knows_places: bool = False

    @property
    def has_dry_run(self) -> bool:
        """Whether KVM makes the dry run."""
        return self.kvm.params.early_consistency_checks

    def vmcs(self, number: int) -> int:
        """Return vmcs01 or vmcs02, for the functions that read and write fields."""
        vcpu = self.made.vcpu
        found: int = vcpu.library.functions.nvmx_vmcs(vcpu.address, number)
        return found

    def read(self, number: int) -> Vmcs:
        """Return the fields of vmcs01 or vmcs02."""
        return vmcs_at(self.made.vcpu.library.functions, self.vmcs(number))

    def write(self, number: int, fields: Mapping[str, int]) -> None:
        """Set fields of vmcs01 or vmcs02."""
        vmcs, write = self.vmcs(number), self.made.vcpu.library.functions.nvmx_vmcs_write
        for name, value in fields.items():
            write(vmcs, FIELD_BY_NAME[name].encoding, value)


def load(library: Library, configuration: Configuration, behaviour: EntryBehaviour) -> Loaded:
    """Load KVM, and let L1 have run once; IoctlError if KVM refuses the processor."""
    hardware = hardware_of(configuration.host)
    parameters = {
        name: value for name, value in configuration.parameters if name in library.parameters
    }
    machine, vm, vcpu = boot(library, hardware, parameters, irqchip=configuration.irqchip)
    # Linux 6.1 does not say how many entries it has written: what is all zero is none of them.
    given = (each for each in vcpu.get_cpuid() if each.function or each.eax)
    entries = [_edited(entry, configuration.cpuid) for entry in given]
    if configuration.evmcs:
        entries = [each for each in entries if each.function & ~0xFF != _HYPERVISOR] + _hyperv()
    if configuration.cpuid or configuration.evmcs:
        vcpu.set_cpuid(entries)
    if configuration.evmcs:
        vcpu.enable_evmcs()
    l1.prepare(vcpu, vm.memory)
    for index, keep in configuration.msrs:
        value = vcpu.get_msr(index)
        if value is not None:
            vcpu.set_msr(index, value & keep)
    # Finding out what L1's processor is runs L1: that is taken back.
    found = Fresh(machine, vm, vcpu, library.snapshot())
    virtual = virtual_profile(vcpu, configuration.host, "virtual")
    found.renew()
    found.discard()
    setup = ConfigSetup(library)
    setup.run()
    loaded = Loaded(
        found,
        Direct(library, vcpu.address),
        Kvm(
            behaviour,
            VmcsConfig(*setup.words()),
            VirtualCpu.of(virtual, behaviour, configuration.host),
            # This processor takes any value that is written to IA32_SPEC_CTRL.
            replace(configuration.host, spec_ctrl_mask=(1 << 64) - 1),
            irqchip_in_kernel=configuration.irqchip,
        ),
        virtual,
        Evmcs() if configuration.evmcs else None,
    )
    leaves = {(each.function, each.index): each for each in vcpu.get_cpuid()}
    return _settled(loaded, hardware, leaves, _params(library))


def _edited(entry: CpuidEntry, edits: Sequence[CpuidEdit]) -> CpuidEntry:
    for leaf, subleaf, register, keep, add in edits:
        if (entry.function, entry.index) == (leaf, subleaf):
            setattr(entry, register, getattr(entry, register) & keep | add)
    return entry


def _hyperv() -> list[CpuidEntry]:
    """Return the leaves of a hypervisor that is Hyper-V, as far as KVM asks for them."""
    return [
        CpuidEntry(number, eax=eax, ebx=ebx, ecx=ecx, edx=edx)
        for number, eax, ebx, ecx, edx in _HYPERV
    ]


def _params(library: Library) -> EntryParams:
    known = library.parameters
    return EntryParams(
        **{ours: known[name].value != 0 for ours, name in _PARAMETERS.items() if name in known}
    )


def _settled(loaded: Loaded, hardware: Hardware, leaves: Leaves, params: EntryParams) -> Loaded:
    """Return the same once L1 has run: with what KVM has allocated and left in VMCSs by then."""
    made = loaded.made
    loaded.direct.reset_l1(l1_of(_L1))
    made.vcpu.run(Script(FailedEntry(ExitReason.INVALID_STATE)))
    kvm = replace(
        loaded.kvm,
        params=params,
        virtual=_with_cpuid(loaded.kvm, leaves),
        host=_host_state(loaded.read(1), hardware),
        vpid01=loaded.read(1).virtual_processor_id,
        host_umip=_has(hardware, *_UMIP),
    )
    # What has brought L1 this far is not there any more: what no case writes is zero.
    made.vm.memory.write(0, bytes(_USED))
    # Going from one processor to another one is the cheaper for it.
    made.machine.library.functions.nvmx_round_heap()
    return replace(loaded, made=made.keep(), kvm=kvm)


def _with_cpuid(kvm: Kvm, leaves: Leaves) -> VirtualCpu:
    def has(leaf: int, subleaf: int, register: str, bit: int) -> bool:
        entry = leaves.get((leaf, subleaf))
        return entry is not None and getattr(entry, register) >> bit & 1 == 1

    features = kvm.virtual.features
    if any(has(*place) for place in _SPEC_CTRL_MSR):
        features |= {"spec-ctrl"}
    newer = kvm.behaviour.version not in ("4.20", "5.18", "6.1")
    return replace(
        kvm.virtual,
        supported_xss=0 if has(*_XSAVES) else None,
        has_tsc_aux=any(has(*place) for place in _RDTSCP),
        features=features,
        has_full_width_counters=has(*_PDCM),
        pred_cmd=0 if newer and has(*_SPEC_CTRL) else None,
        perf_global_ctrl_reserved=ALL_ONES & ~_counters(leaves.get(_PERFORMANCE)),
        flush_cmd=1 if newer and has(*_FLUSH_L1D) else None,
    )


def _counters(leaf: CpuidEntry | None) -> int:
    """Return the bits of IA32_PERF_GLOBAL_CTRL, that need not exist, by the counters of a vCPU."""
    version = leaf.eax & 0xFF if leaf is not None else 0
    if leaf is None or not version:
        return 0
    general: int = (1 << (leaf.eax >> 8 & 0xFF)) - 1
    fixed = min(leaf.edx & 0x1F, _FIXED_COUNTERS) if version > 1 else 0
    return general | (1 << fixed) - 1 << 32


def _has(hardware: Hardware, leaf: int, subleaf: int, register: int, bit: int) -> bool:
    places = {each[:2]: each[2:] for each in hardware.cpuid}
    return places.get((leaf, subleaf), (0, 0, 0, 0))[register] >> bit & 1 == 1


def _host_state(vmcs01: Vmcs, hardware: Hardware) -> HostState:
    msrs = dict(hardware.msrs)
    return HostState(
        cr0=vmcs01.host_cr0,
        cr3=vmcs01.host_cr3,
        cr4=vmcs01.host_cr4,
        efer=msrs.get(_EFER, 0),
        pat=msrs[_PAT],
        sysenter_cs=vmcs01.host_ia32_sysenter_cs,
        sysenter_esp=vmcs01.host_ia32_sysenter_esp,
        sysenter_eip=vmcs01.host_ia32_sysenter_eip,
        idtr_base=vmcs01.host_idtr_base,
        gdtr_base=vmcs01.host_gdtr_base,
        tr_base=vmcs01.host_tr_base,
        gs_base=vmcs01.host_gs_base,
        rip=vmcs01.host_rip,
        rsp=vmcs01.host_rsp,
    )


def with_places(loaded: Loaded, vmcs02: Vmcs) -> Loaded:
    """Return the same with the places that KVM's first vmcs02 tells."""
    known = loaded.kvm.places
    slot = loaded.made.vm.memory.slots[0]
    # Host-physical memory is one range, in the process as well.
    address = vmcs02.vm_exit_msr_load_addr
    inside = loaded.made.machine.library.functions.nvmx_physical(address, 1)
    places = replace(
        known,
        guest_memory=slot.host_address - slot.guest_address - (inside - address),
        msr_bitmap02=vmcs02.msr_bitmap,
        autostore=vmcs02.vm_exit_msr_store_addr,
        autoload_host=vmcs02.vm_exit_msr_load_addr,
        autoload_guest=vmcs02.vm_entry_msr_load_addr,
    )
    return replace(loaded, kvm=replace(loaded.kvm, places=places), knows_places=True)
