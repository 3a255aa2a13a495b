# SPDX-License-Identifier: GPL-2.0-only
"""struct vcpu_vmx: what of a vCPU lives between two ioctls, under the kernel's names.

`Vcpu` is its registers and VMCSs, made anew of the same values for each VM entry of L1; `NestedVmx`
is L1's VMX operation. What a model function changes over a session is one of these.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from nvmxfuzz.arch.registers import Cr0, Efer, Rflags
from nvmxfuzz.kvm.guest_memory import PagedMemory
from nvmxfuzz.kvm.msr_vcpu import MsrVcpu
from nvmxfuzz.kvm.nested_msrs import VMCS12_SIZE
from nvmxfuzz.kvm.vcpu import EntryRequest, Kvm, L1State, NestedState, Vcpu
from nvmxfuzz.kvm.vcpu_events import Events
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmcs02_fields import SEGMENT_FIELDS
from nvmxfuzz.kvm.vmcs12 import LAUNCH_STATE, SHADOW_VMCS, read_word, unpack, write_fields
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.vmcs import Vmcs

GPRS = (
    *("rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi"),
    *(f"r{number}" for number in range(8, 16)),
)
"""General-purpose registers but RSP, which is in `Vcpu`."""
DEFAULT_SMBASE = 0x3_0000
_SHADOWED = ("guest_cs_ar_bytes", "guest_ss_ar_bytes")
RARE_FIELDS = (
    *(name for name in SEGMENT_FIELDS if name not in _SHADOWED),
    "guest_pending_dbg_exceptions",
)
"""What sync_vmcs02_to_vmcs12_rare() copies."""

_LOCKED_WITH_VMX = 5

MP_RUNNABLE = 0
MP_UNINITIALIZED = 1
MP_INIT_RECEIVED = 2
MP_HALTED = 3
MP_SIPI_RECEIVED = 4


def _region() -> bytearray:
    return bytearray(VMCS12_SIZE)


@dataclass(slots=True)
class NestedVmx:
    """struct nested_vmx. Pointers are guest-physical addresses, all ones where there is none."""

    vmxon: bool = False
    vmxon_ptr: int = ALL_ONES
    current_vmptr: int = ALL_ONES
    cached_vmcs12: bytearray = field(default_factory=_region)
    cached_shadow_vmcs12: bytearray = field(default_factory=_region)
    shadow_vmcs12_cache: tuple[int, bool] = (ALL_ONES, False)
    dirty_vmcs12: bool = True
    need_sync_vmcs02_to_vmcs12_rare: bool = False
    """Fields of vmcs12 that seldom change are still to be read from vmcs02, whichever that is."""
    shadow_vmcs: dict[str, int] = field(default_factory=dict)
    """What KVM's shadow VMCS holds; empty where vmcs12 is yet to be written to it."""
    nested_run_pending: bool = False
    mtf_pending: bool = False
    has_preemption_timer_deadline: bool = False
    preemption_timer_deadline: int = 0
    preemption_timer_expired: bool = False
    smm_vmxon: bool = False
    """In SMM: VMX operation goes on when it is left."""
    smm_guest_mode: bool = False
    """In SMM: L2 goes on when it is left."""


@dataclass(slots=True)
class VcpuVmx:
    """A vCPU over a session; `create_vmx` makes it as userspace has it when L1 begins."""

    vcpu: Vcpu
    gprs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GPRS, 0))
    nested: NestedVmx = field(default_factory=NestedVmx)
    events: Events = field(default_factory=Events)
    msrs: MsrVcpu | None = None
    """The capability MSRs and IA32_FEATURE_CONTROL; without, nobody has changed them."""
    capabilities: tuple[tuple[str, int | None], ...] | None = None
    """The same as whoever reads them has seen them last; None where they may have changed."""
    smbase: int = DEFAULT_SMBASE
    shadowing: bool = False
    """KVM uses a shadow VMCS for L1."""
    in_smm: bool = False
    smm_inside_nmi: bool = False
    mp_state: int = MP_RUNNABLE
    emulation_required: bool = False
    cr2: int = 0
    cr8: int = 0
    dr6: int = 0xFFFF_0FF0
    pdptrs_from_userspace: bool = False
    pdptrs_dirty: bool = False
    """Userspace has written PDPTEs since the VMCS became current, which may have others."""
    sipi_vector: int = 0
    bugged: bool = False
    """KVM has declared the VM broken: every ioctl is refused with EIO."""

    @property
    def has_vmx(self) -> bool:
        """Whether VMX is in the vCPU's CPUID."""
        return self.msrs is None or self.msrs.vmx_allowed

    @property
    def feature_control(self) -> int:
        """IA32_FEATURE_CONTROL."""
        return _LOCKED_WITH_VMX if self.msrs is None else self.msrs.msr_ia32_feature_control

    @property
    def vmcs12(self) -> Vmcs:
        """The fields of the current VMCS as KVM has cached it."""
        return unpack(self.nested.cached_vmcs12)


def create_vmx(kvm: Kvm, l1: L1State, memory: Memory) -> VcpuVmx:
    """Return a vCPU whose L1 is about to begin: registers as given, no VMX operation."""
    outside = replace(l1.processor, vmxon_pointer=ALL_ONES, current_vmcs=ALL_ONES)
    request = EntryRequest(Vmcs(), replace(l1, processor=outside), memory)
    vcpu = Vcpu(kvm, request)
    vcpu.memory = PagedMemory(memory, kvm.slots, kvm.unwritten)
    return VcpuVmx(vcpu)


def is_64_bit_mode(vmx: VcpuVmx) -> bool:
    """Whether the vCPU executes 64-bit code."""
    vcpu = vmx.vcpu
    return vcpu.efer & Efer.LMA != 0 and vcpu.vmcs["guest_cs_ar_bytes"] >> 13 & 1 == 1


def vmx_get_cpl(vmx: VcpuVmx) -> int:
    """Return the current privilege level: the DPL of SS."""
    return 0 if vmx.vcpu.rmode is not None else vmx.vcpu.vmcs["guest_ss_ar_bytes"] >> 5 & 3


def is_vmx_code(vmx: VcpuVmx) -> bool:
    """Whether the processor lets a VMX instruction get as far as a VM exit."""
    vcpu = vmx.vcpu
    if not vcpu.cr0 & Cr0.PE or vcpu.rflags & Rflags.VM:
        return False
    return not vcpu.efer & Efer.LMA or is_64_bit_mode(vmx)


def l1_processor(vmx: VcpuVmx) -> Processor:
    """Return L1 as it executes VMLAUNCH or VMRESUME now."""
    vcpu, nested = vmx.vcpu, vmx.nested
    header = read_word(nested.cached_vmcs12, 0)
    return Processor(
        cr0=vcpu.cr0,
        cr3=vcpu.cr3,
        cr4=vcpu.cr4,
        efer=vcpu.efer,
        rflags=vcpu.rflags,
        cpl=vmx_get_cpl(vmx),
        cs_l=vcpu.vmcs["guest_cs_ar_bytes"] >> 13 & 1 == 1,
        blocking_by_mov_ss=vcpu.vmcs["guest_interruptibility_info"] & 2 != 0,
        vmxon_pointer=nested.vmxon_ptr if nested.vmxon else ALL_ONES,
        current_vmcs=nested.current_vmptr,
        current_vmcs_is_shadow=header & SHADOW_VMCS != 0,
    )


def begin_entry(vmx: VcpuVmx, launch: bool) -> Vcpu:
    """Make the registers those of a nested VM entry: vmcs12 as it is, and nothing noted yet."""
    old, nested = vmx.vcpu, vmx.nested
    l1 = replace(
        old.l1,
        processor=l1_processor(vmx),
        tsc_offset=old.tsc_offset,
        tsc_scaling_ratio=old.tsc_scaling_ratio,
    )
    old.l1 = l1
    old.vmcs12 = unpack(nested.cached_vmcs12)
    # Of the launch state KVM asks whether it is the number that the instruction must not find.
    refused = read_word(nested.cached_vmcs12, LAUNCH_STATE) == int(launch)
    old.request = replace(
        old.request,
        vmcs12=old.vmcs12,
        l1=l1,
        launch=launch,
        launched=launch if refused else not launch,
        vmcs01=Vmcs(old.vmcs01),
        nested=NestedState(
            Vmcs(old.vmcs02) if old.vmcs02_initialized else None,
            old.vmcs02_launched,
            nested.dirty_vmcs12,
            nested.shadow_vmcs12_cache,
        ),
    )
    old.dirty_vmcs12 = nested.dirty_vmcs12
    old.in_smm = vmx.in_smm
    vmx.pdptrs_dirty = False
    old.shadow_vmcs12_cache = nested.shadow_vmcs12_cache
    old.aborted = ""
    old.halted = old.waits_for_sipi = False
    old.virtual_apic_stale = False
    old.vmcs12_writes.clear()
    old.fired.clear()
    return old


def end_entry(vmx: VcpuVmx) -> None:
    """Take what KVM wrote into vmcs12, and what it keeps for the next entry."""
    vcpu, nested = vmx.vcpu, vmx.nested
    write_fields(nested.cached_vmcs12, vcpu.vmcs12_writes)
    vcpu.vmcs12_writes.clear()
    nested.dirty_vmcs12 = vcpu.dirty_vmcs12
    nested.shadow_vmcs12_cache = vcpu.shadow_vmcs12_cache
    nested.nested_run_pending = vcpu.nested_run_pending


def copy_vmcs02_to_vmcs12_rare(vmx: VcpuVmx) -> None:
    """Bring the fields that seldom change into vmcs12, if that was put off."""
    nested, vmcs02 = vmx.nested, vmx.vcpu.vmcs02
    if nested.need_sync_vmcs02_to_vmcs12_rare:
        nested.need_sync_vmcs02_to_vmcs12_rare = False
        write_fields(nested.cached_vmcs12, {name: vmcs02.get(name, 0) for name in RARE_FIELDS})
