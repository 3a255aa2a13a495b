# SPDX-License-Identifier: GPL-2.0-only
"""The model of KVM as a witness of sessions: `oracles.session.witness.SessionWitness`.

What the model does not know ends a session: `do` says so in `stopped`, with `NOT_MODELLED` first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Final, TypeAlias

from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.inputs import places
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.repair import repair
from nvmxfuzz.inputs.session_steps import MSRS, VCPUS, SessionStep
from nvmxfuzz.inputs.world import World
from nvmxfuzz.kvm.entry_behaviour import entry_behaviour
from nvmxfuzz.kvm.entry_run import UNTRACED
from nvmxfuzz.kvm.event_ioctls import kvm_get_mp_state, kvm_get_vcpu_events
from nvmxfuzz.kvm.guest_memory import PagedMemory
from nvmxfuzz.kvm.hardware_setup import LoadedKvm, load_kvm_intel
from nvmxfuzz.kvm.msr_vcpu import MsrVcpu, vmx_get_msr, vmx_set_msr
from nvmxfuzz.kvm.nested_kvm import kvm_of
from nvmxfuzz.kvm.nested_state import vmx_get_nested_state
from nvmxfuzz.kvm.source import find_kernel
from nvmxfuzz.kvm.vcpu import Kvm, L1State
from nvmxfuzz.kvm.vcpu_events import NotModelledError
from nvmxfuzz.kvm.vcpu_ioctls import (
    SEGMENT_PARTS,
    SEGMENTS,
    kvm_get_msr,
    kvm_get_regs,
    kvm_get_sregs2,
)
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx, create_vmx
from nvmxfuzz.kvm.virtual_processor import default_vcpu, profile_of
from nvmxfuzz.kvm.vmcs01 import prepare_vmcs01
from nvmxfuzz.kvm.vmcs02_fields import SEGMENT_FIELDS
from nvmxfuzz.kvm.vmcs12 import LAUNCH_STATE, OFFSETS, read_word, unpack
from nvmxfuzz.kvm.vmx_registers import is_pae_paging
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.oracles.restore.witness import WitnessStoppedError
from nvmxfuzz.oracles.restore.worlds import msr_world
from nvmxfuzz.oracles.session.witness import PLACE_ADDRESSES, StepResult, VcpuView
from nvmxfuzz.targets.session_model_steps import STEPS
from nvmxfuzz.targets.session_model_userspace import SessionMachine

Pairs: TypeAlias = tuple[tuple[str, int], ...]

NOT_MODELLED: Final = "not modelled"
"""How `stopped` begins where the model, not KVM, has come to its end."""

_RIP: Final = 0xF000
_RSP: Final = 0xE000
_CR0: Final = 0x8005_0033
_CR4: Final = 0x2020
_EFER: Final = 0x500
_APIC_BASE: Final = 0xFEE0_0800
_BSP: Final = 0x100
_FEATURE_CONTROL: Final = 5
_REVISION: Final = 0x11E5_7ED0
_SHADOW: Final = 1 << 31
_PDPT: Final = 0x11_0000
_PAGE_DIRECTORY: Final = 0x11_1000
_PAGE_TABLE: Final = 0x11_2000
_OPERANDS: Final = 0x12_0000
_TABLE: Final = 7
_LARGE: Final = 0x87
_MOST_KEPT: Final = 4096
_CLOCK: Final = "IA32_TSC"
_CAPABILITIES: Final = tuple(
    (name, index) for name, index in sorted(MSRS.items()) if 0x480 <= index < 0x4A0
)
_OTHER_MSRS: Final = tuple(
    pair for pair in sorted(MSRS.items()) if pair not in _CAPABILITIES and pair[0] != _CLOCK
)
"""Both by name: no other name comes behind those of the capability MSRs."""


class ModelSessions:
    """KVM of one version as the model has it, with two vCPUs.

    `attempts` gives the bases that L1 prepares, by name; without, they are repaired for the
    processor that the model offers.
    """

    def __init__(self, kernel: str, attempts: Callable[[str], Attempt] | None = None) -> None:
        self.kernel = kernel
        self.name = f"kvm-model-{kernel}"
        self._given = attempts
        self._kvm: Kvm | None = None
        self._module: LoadedKvm | None = None
        self._virtual: Profile | None = None
        self._capabilities: tuple[tuple[str, int | None], ...] = ()
        """The capability MSRs of a vCPU whose MSRs nobody has written."""
        self._machine: SessionMachine | None = None
        self._attempts: dict[str, Attempt] = {}
        self._kept: dict[tuple[int, ...], Pairs] = {}

    def load(self, world: World) -> str:
        """Load KVM in a world and make the VM; "" or why KVM refuses the processor."""
        loaded = msr_world(world)
        outcome = load_kvm_intel(loaded.host, find_kernel(self.kernel), loaded.params)
        module = outcome.module
        if module is None:
            return f"insmod: {outcome.site}"
        virtual = profile_of(default_vcpu(module), world.profile)
        behaviour = entry_behaviour(self.kernel)
        kvm = kvm_of(module, behaviour, world.profile, virtual)
        self._kvm = replace(kvm, irqchip_in_kernel=True)
        self._module, self._virtual = module, virtual
        self._attempts.clear()
        self._capabilities = _capabilities(default_vcpu(module))
        self.renew()
        return ""

    def renew(self) -> None:
        """Have everything as `load` left it."""
        if self._kvm is None or self._module is None or self._virtual is None:
            raise ValueError("nothing is loaded")
        memory = Memory.of(_memory())
        shared = PagedMemory(memory)
        vcpus = [self._vcpu(number, memory, shared) for number in range(VCPUS)]
        attempts = self._given or self._attempt
        self._machine = SessionMachine(
            vcpus, shared, attempts, shadowing=self._module.flags.enable_shadow_vmcs
        )

    def do(self, step: SessionStep) -> StepResult:
        """Carry a step out, and tell what it came to; `stopped` where the model knows no more."""
        machine = self._now()
        vmx = machine.vcpus[step.vcpu % VCPUS]
        # What KVM warned of while somebody read a vCPU is not of this step.
        for each in machine.vcpus:
            each.vcpu.warnings.clear()
        vmx.vcpu.fired.clear()
        try:
            result = STEPS[step.kind](machine, vmx, step)
        except NotModelledError as unknown:
            return StepResult(stopped=f"{NOT_MODELLED}: {unknown}")
        except KeyError as unknown:
            if unknown.args != (step.kind,):
                raise
            return StepResult(stopped=f"{NOT_MODELLED}: the step {step.kind}")
        warnings, fired = tuple(vmx.vcpu.warnings), vmx.vcpu.fired
        vmx.vcpu.warnings.clear()
        if not warnings and not fired:
            return result
        checks = tuple(name for name in fired if name not in UNTRACED)
        return replace(result, warnings=warnings, checks=checks)

    def read(self, vcpu: int) -> VcpuView:
        """Return what userspace can read of a vCPU; of the MSRs not those that follow the clock.

        WitnessStoppedError where an INIT or SIPI is accepted by that, and the model knows no more.
        """
        vmx = self._now().vcpus[vcpu]
        try:
            mp_state = kvm_get_mp_state(vmx)
        except NotModelledError as unknown:
            raise WitnessStoppedError(f"{NOT_MODELLED}: {unknown}") from None
        nested = vmx_get_nested_state(vmx)
        if vmx.capabilities is None:
            assert vmx.msrs is not None
            vmx.capabilities = _capabilities(vmx.msrs)
        msrs = tuple(
            (name, value)
            for name, value in (
                *((name, kvm_get_msr(vmx, index)) for name, index in _OTHER_MSRS),
                *vmx.capabilities,
            )
            if value is not None
        )
        return VcpuView(
            regs=_sorted(kvm_get_regs(vmx)),
            sregs=self._sregs(vmx),
            events=_sorted(kvm_get_vcpu_events(vmx)),
            mp_state=mp_state,
            msrs=msrs,
            nested=_sorted(
                {
                    "flags": nested.flags,
                    "format": nested.format,
                    "size": nested.size,
                    "vmxon_pa": nested.vmxon_pa,
                    "vmcs12_pa": nested.vmcs12_pa,
                    "smm_flags": nested.smm_flags,
                    "vmx_flags": nested.vmx_flags,
                    "preemption_timer_deadline": nested.preemption_timer_deadline,
                }
            ),
            vmcs12=_image(nested.vmcs12),
            shadow_vmcs12=_image(nested.shadow_vmcs12),
        )

    def _sregs(self, vmx: VcpuVmx) -> Pairs:
        """Return what is mostly as it was in some step before: the same values, the same object."""
        vcpu = vmx.vcpu
        if vcpu.rmode is not None or is_pae_paging(vcpu):
            return _sorted(_sregs(vmx))
        control = (vcpu.cr0, vmx.cr2, vcpu.cr3, vcpu.cr4, vmx.cr8, vcpu.efer, vcpu.apic_base)
        key = control + _segments(vcpu.vmcs)
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            found = self._kept[key] = _sorted(_sregs(vmx))
        return found

    def late_warnings(self) -> tuple[str, ...]:
        """Return the WARNs since `do` returned: to read events may be to deal with them."""
        return tuple(name for vmx in self._now().vcpus for name in vmx.vcpu.warnings)

    def _now(self) -> SessionMachine:
        if self._machine is None:
            raise ValueError("nothing is loaded")
        return self._machine

    def _attempt(self, name: str) -> Attempt:
        found = self._attempts.get(name)
        if found is None:
            assert self._virtual is not None
            whole = repair(base(name, self._virtual))
            missing = {field.name: 0 for field in FIELDS if field.name not in OFFSETS}
            found = self._attempts[name] = replace(whole, vmcs=whole.vmcs.replace(missing))
        return found

    def _vcpu(self, number: int, memory: Memory, shared: PagedMemory) -> VcpuVmx:
        assert self._kvm is not None
        assert self._module is not None
        processor = Processor(cr0=_CR0, cr3=places.HOST_PAGE_TABLE, cr4=_CR4, efer=_EFER, rflags=2)
        apic_base = _APIC_BASE | (0 if number else _BSP)
        vmx = create_vmx(
            self._kvm, L1State(processor, rip=_RIP, rsp=_RSP, apic_base=apic_base), memory
        )
        vmx.vcpu.memory = shared
        prepare_vmcs01(vmx.vcpu)
        vmx.vcpu.vmcs01 = vmx.vcpu.vmcs
        # KVM writes these into vmcs01 when it enters L1.
        vmx.vcpu.vmcs.update(guest_rip=0, guest_rsp=0, guest_cr3=0)
        for table in ("gdtr", "idtr"):
            vmx.vcpu.vmcs[f"guest_{table}_limit"] = 0
        vmx.vcpu.vmcs["guest_ldtr_ar_bytes"] |= 2
        vmx.capabilities = self._capabilities
        vmx.shadowing = self._module.flags.enable_shadow_vmcs
        vmx.msrs = default_vcpu(self._module)
        vmx_set_msr(vmx.msrs, MSRS["IA32_FEATURE_CONTROL"], _FEATURE_CONTROL)
        return vmx


def _memory() -> dict[int, bytes]:
    """Return what L1 has in memory: page tables and regions."""
    words = {
        places.HOST_PAGE_TABLE: _PDPT | _TABLE,
        places.GUEST_PAGE_TABLE: _PDPT | _TABLE,
        _PDPT: _PAGE_DIRECTORY | _TABLE,
        _PAGE_DIRECTORY: _LARGE,
        _PAGE_DIRECTORY + 8: _PAGE_TABLE | _TABLE,
        _PAGE_TABLE: _OPERANDS | _TABLE,
        _PAGE_TABLE + 16: _OPERANDS + 0x2000 | 1,
        PLACE_ADDRESSES["wrong-revision"]: _REVISION ^ 1,
        PLACE_ADDRESSES["shadow-vmcs"]: _REVISION | _SHADOW,
    }
    for name in ("vmxon-region", "other-vmxon-region", "vmcs-0", "vmcs-1", "vmcs-2"):
        words[PLACE_ADDRESSES[name]] = _REVISION
    return {at: word.to_bytes(8, "little") for at, word in words.items()}


def _capabilities(msrs: MsrVcpu) -> tuple[tuple[str, int | None], ...]:
    return tuple((name, vmx_get_msr(msrs, index)) for name, index in _CAPABILITIES)


_SEGMENT_NAMES: Final = {
    name: tuple(f"{name}.{part}" for part in SEGMENT_PARTS) for name in SEGMENTS
}
_parts: Final = attrgetter(*SEGMENT_PARTS)
_segments: Final = itemgetter(*SEGMENT_FIELDS)


_Pick = Callable[[dict[str, int]], tuple[int, ...]]


@lru_cache(maxsize=64)
def _order(names: tuple[str, ...]) -> tuple[tuple[str, ...], _Pick]:
    """Return some names in their order, and what picks their values of a dictionary."""
    ordered = tuple(sorted(names))
    return ordered, itemgetter(*ordered)


def _sorted(values: dict[str, int]) -> Pairs:
    names, pick = _order(tuple(values))
    return tuple(zip(names, pick(values), strict=True))


def _sregs(vmx: VcpuVmx) -> dict[str, int]:
    sregs = kvm_get_sregs2(vmx)
    values: dict[str, int] = {}
    for name, segment in sregs.segments.items():
        values.update(zip(_SEGMENT_NAMES[name], _parts(segment), strict=True))
    names = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")
    values |= {name: getattr(sregs, name) for name in names}
    for table in ("gdt", "idt"):
        for part in ("base", "limit"):
            values[f"{table}.{part}"] = getattr(sregs, f"{table}_{part}")
    pdptrs = sregs.pdptrs or (0, 0, 0, 0)
    values |= {f"pdptr{number}": value for number, value in enumerate(pdptrs)}
    return values | {"flags": 0 if sregs.pdptrs is None else 1}


@lru_cache(maxsize=1024)
def _image(image: bytes) -> Pairs:
    """Return the fields of a VMCS that are not 0: most are read again as they were."""
    if not image:
        return ()
    values = {name: value for name, value in unpack(image).items().items() if value}
    header = {"revision_id": read_word(image, 0), "launch_state": read_word(image, LAUNCH_STATE)}
    values |= {name: value for name, value in header.items() if value}
    return tuple(sorted(values.items()))
