# SPDX-License-Identifier: GPL-2.0-only
"""What makes KVM refuse a VM entry and no attempt can say: what user space did before it.

Each scenario is a VMLAUNCH of a valid vmcs12 with something else wrong. `SCENARIOS` has the name
of the check that is to fail, for `checks_in_source`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Primary, Secondary
from nvmxfuzz.arch.vmx_msr import EptVpidCap
from nvmxfuzz.inputs import places
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native import structures as s
from nvmxfuzz.targets.kvm_native.direct import Direct, l1_of
from nvmxfuzz.targets.kvm_native.guest_memory import Slot
from nvmxfuzz.targets.kvm_native.hardware import hardware_of
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.port import Script, VmFail
from nvmxfuzz.targets.kvm_native.results import Check
from nvmxfuzz.targets.kvm_native.vm import Fresh, fresh
from nvmxfuzz.targets.kvm_native.vmcs12 import Vmcs12Layout

_HOST: Final = "skylake-x"
_X2APIC: Final = 1 << 10
_X2APIC_MSR: Final = 0x800
_HOLE: Final = 0x80_0000
"""Guest memory behind which user space has none."""
_NOWHERE: Final = 0x1_0000
_ASSIST_PAGE: Final = 0x3_A000
_ENLIGHTENED: Final = 0x3_B000
_HV_VP_ASSIST_PAGE: Final = 0x4000_0073
_HV_FEATURES: Final = 0x4000_0003
_HV_INTERFACE: Final = 0x4000_0001
_HYPERVISOR: Final = range(0x4000_0000, 0x4000_0100)
"""CPUID leaves in which KVM tells who it is."""
_HV_SIGNATURE: Final = 0x3123_7648
_EVMCS_VERSION: Final = 1
_NO_REVISION: Final = 0x7FFF_FFFF
_INVALID_CONTROLS: Final = 7
_EPT: Final = MappingProxyType(
    {
        "cpu_based_vm_exec_control": Primary.ACTIVATE_SECONDARY_CONTROLS,
        "secondary_vm_exec_control": Secondary.ENABLE_EPT,
    }
)


class _Scene:
    """L1 about to execute VMLAUNCH of a vmcs12 that is valid so far."""

    def __init__(self, library: Library) -> None:
        host = load_profile(_HOST)
        # Without a shadow VMCS an image is all there is of vmcs12.
        self.made: Fresh = fresh(
            library, hardware_of(host), {"enable_shadow_vmcs": 0}, irqchip=True
        )
        self.library = library
        self.vcpu, self.memory = self.made.vcpu, self.made.vm.memory
        self._start = base("guest-64", load_profile(_offered(library)))
        l1.prepare(self.vcpu, self.memory)
        for address, data in self._start.memory.regions:
            self.memory.write(address, data)
        self.direct = Direct(library, self.vcpu.address)

    def launch(self, edits: Mapping[str, int], added: Mapping[str, int] | None = None) -> None:
        """Execute it with fields replaced, and with bits added to others."""
        vmcs = self._start.vmcs
        bits = {name: getattr(vmcs, name) | value for name, value in (added or {}).items()}
        self.direct.reset_l1(l1_of(self._start.processor))
        self.direct.run(Vmcs12Layout(self.library).pack(vmcs.replace({**edits, **bits})))


def _offered(library: Library) -> str:
    major, minor, _ = library.kernel_version
    return f"kvm-{major}.{minor}-{_HOST}"


def _x2apic_msr(scene: _Scene) -> None:
    sregs = scene.vcpu.get_sregs()
    sregs.apic_base |= _X2APIC
    scene.vcpu.set_sregs(sregs)
    scene.memory.write(places.MSR_LOAD_AREA, struct.pack("<IIQ", _X2APIC_MSR, 0, 0))
    scene.launch({"vm_entry_msr_load_count": 1})


def _without_ept(capability: int) -> Callable[[_Scene], None]:
    """Return the scenario of an EPT whose capability user space has taken away."""

    def play(scene: _Scene) -> None:
        offered = scene.direct.get_vmx_msr(msr.MSR_IA32_VMX_EPT_VPID_CAP) or 0
        scene.direct.set_vmx_msr(msr.MSR_IA32_VMX_EPT_VPID_CAP, offered & ~capability)
        scene.launch({}, _EPT)

    return play


def _link_into_nothing(scene: _Scene) -> None:
    scene.made.vm.set_memory(Slot(5, _HOLE, 0x1000, _NOWHERE))
    scene.launch({"vmcs_link_pointer": _HOLE})


def _enlightened(revision: int) -> Callable[[_Scene], None]:
    """Return the scenario of an enlightened VMCS of a revision, with nothing else in it."""

    def play(scene: _Scene) -> None:
        leaves = [leaf for leaf in scene.vcpu.get_cpuid() if leaf.function not in _HYPERVISOR]
        hyper_v = (
            s.CpuidEntry(function=_HV_INTERFACE, eax=_HV_SIGNATURE),
            s.CpuidEntry(function=_HV_FEATURES, eax=(1 << 32) - 1),
        )
        scene.vcpu.set_cpuid([*leaves, *hyper_v])
        scene.vcpu.enable_evmcs()
        scene.vcpu.set_msr(_HV_VP_ASSIST_PAGE, _ASSIST_PAGE | 1)
        # enlighten_vmentry and current_nested_vmcs of the page.
        scene.memory.write(_ASSIST_PAGE + 40, struct.pack("<QQ", 1, _ENLIGHTENED))
        scene.memory.write_int(_ENLIGHTENED, revision, 4)
        scene.launch({})

    return play


def _refused_by_the_processor(scene: _Scene) -> None:
    scene.launch({})
    scene.vcpu.run(Script(VmFail(_INVALID_CONTROLS), l1.OUT))


SCENARIOS: Final[Mapping[str, Callable[[_Scene], None]]] = MappingProxyType(
    {
        "nested_vmx_msr_check_common 58141978": _x2apic_msr,
        "nested_vmx_check_eptp 6180d7dd": _without_ept(EptVpidCap.MEMORY_TYPE_WB),
        "nested_vmx_check_eptp 18251b64": _without_ept(EptVpidCap.PAGE_WALK_4),
        "nested_vmx_check_vmcs_link_ptr e63821ad": _link_into_nothing,
        "nested_vmx_run 6a8fd74a": _enlightened(_NO_REVISION),
    }
)
"""Scenarios by the check that is to fail."""


WITHOUT_CHECK: Final[Mapping[str, Callable[[_Scene], None]]] = MappingProxyType(
    {
        "enlightened VMCS": _enlightened(_EVMCS_VERSION),
        "VMfail of the processor": _refused_by_the_processor,
    }
)
"""Further scenarios by name: ways through nested.c that no attempt leads to."""


def play(library: Library, name: str) -> tuple[Check, ...]:
    """Play a scenario; return the checks that failed in it."""
    scene = _Scene(library)
    {**SCENARIOS, **WITHOUT_CHECK}[name](scene)
    checks = library.result().checks
    scene.made.discard()
    return checks
