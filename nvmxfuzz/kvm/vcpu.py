# SPDX-License-Identifier: GPL-2.0-only
"""What a nested VM entry starts from, and struct kvm_vcpu while it runs.

`Kvm` is settled when the modules are loaded and the vCPU is created, `L1State` when L1 executes
VMLAUNCH or VMRESUME; both are frozen. `Vcpu` is the working copy of one run, never handed out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nvmxfuzz.arch.registers import Cr4
from nvmxfuzz.kvm.entry_behaviour import EntryBehaviour
from nvmxfuzz.kvm.guest_memory import DEFAULT_SLOTS, GuestMemory
from nvmxfuzz.kvm.segments import RealMode
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES, VirtualCpu
from nvmxfuzz.kvm.vmcs_config import VmcsConfig
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.machine.vmcs import Vmcs

RESET_PAT = 0x0007_0406_0007_0406
RESET_DR7 = 0x400
TSC_RATIO_1 = 1 << 48


@dataclass(frozen=True, slots=True)
class EntryParams:
    """The module parameters that an entry depends on, as hardware_setup() left them.

    `early_consistency_checks` is nested_early_check of mainline: whether the dry run is made, in
    kernels that have one. What a version lacks it ignores.
    """

    ept: bool = True
    ept_ad_bits: bool = True
    unrestricted_guest: bool = True
    vpid: bool = True
    pml: bool = True
    flexpriority: bool = True
    apicv: bool = False
    early_consistency_checks: bool = False
    allow_smaller_maxphyaddr: bool = False
    vmware_backdoor: bool = False
    emulate_invalid_guest_state: bool = True
    warn_on_missed_cc: bool = False


@dataclass(frozen=True, slots=True)
class HostState:
    """The processor below KVM as the entry finds it; 64-bit values."""

    cr0: int = 0x8005_0033
    cr3: int = 0x1000
    cr4: int = int(Cr4.PAE | Cr4.MCE | Cr4.VMXE)
    efer: int = 0xD01
    pat: int = RESET_PAT
    sysenter_cs: int = 0x10
    sysenter_esp: int = 0xFFFF_FE00_0000_3000
    sysenter_eip: int = 0xFFFF_FFFF_8100_1000
    idtr_base: int = 0xFFFF_FE00_0000_0000
    gdtr_base: int = 0xFFFF_FE00_0000_1000
    tr_base: int = 0xFFFF_FE00_0000_4000
    gs_base: int = 0xFFFF_8880_0000_0000
    rip: int = 0xFFFF_FFFF_8100_0000
    rsp: int = 0xFFFF_C900_0000_0000
    debugctl: int = 0
    dr7: int = RESET_DR7
    interrupts_enabled: bool = True
    breakpoints_active: bool = False
    """hw_breakpoint_active(): someone uses the debug registers, and `dr7` is what they want."""


@dataclass(frozen=True, slots=True)
class Places:
    """Host-physical addresses: where guest memory lies, and behind it what KVM allocated."""

    guest_memory: int = 0
    """Added to a guest-physical address that a memslot backs."""
    vmxon_region: int = 0x3FFF_E000
    vmcs02: int = 0x3FFF_F000
    msr_bitmap01: int = 0x4000_0000
    msr_bitmap02: int = 0x4000_1000
    autostore: int = 0x4000_2000
    autoload_host: int = 0x4000_3000
    autoload_guest: int = 0x4000_4000
    pml: int = 0x4000_7000
    ept01: int = 0x4000_5000
    ept02: int = 0x4000_6000
    """Root of the page tables that L2 runs on: EPT, or shadow paging without it."""
    rmode_tss: int = 0xFEFF_D000
    """Guest-physical: what userspace lends KVM for virtual-8086 mode in place of real mode."""
    identity_map: int = 0xFFFB_C000
    """Guest-physical: page tables for a guest without paging."""


@dataclass(frozen=True, slots=True)
class Kvm:
    """KVM as it was loaded on a processor, with one vCPU created on it.

    `config` is what setup_vmcs_config() gave; `hardware` the processor that vmcs02 is run on.
    `vpid01` and `vpid02` are 0 where none was allocated.
    """

    behaviour: EntryBehaviour
    config: VmcsConfig
    virtual: VirtualCpu
    hardware: Profile
    params: EntryParams = field(default_factory=EntryParams)
    host: HostState = field(default_factory=HostState)
    vpid01: int = 1
    vpid02: int = 2
    slots: tuple[tuple[int, int], ...] = DEFAULT_SLOTS
    unwritten: int = 0
    """What every byte of guest memory is that a request says nothing of."""
    places: Places = field(default_factory=Places)
    host_umip: bool = True
    """The processor has UMIP, so that KVM need not emulate it."""
    mpx_supported: bool = False
    """Processor and kernel have MPX, and KVM can switch its state."""
    irqchip_in_kernel: bool = False


@dataclass(frozen=True, slots=True)
class Evmcs:
    """L1's enlightened VMCS: the vCPU may use one, and where its VP assist page says it is.

    `pointer` is all ones where L1 does not use it at this moment.
    """

    pointer: int = ALL_ONES


@dataclass(frozen=True, slots=True)
class L1State:
    """L1 when it executes the instruction, beyond `Processor`; 64-bit values.

    `evmcs` is None on a vCPU without the enlightened VMCS. `msrs` are the values of MSRs that
    neither a VMCS field nor another attribute holds.
    """

    processor: Processor = field(default_factory=Processor)
    dr7: int = RESET_DR7
    debugctl: int = 0
    pat: int = RESET_PAT
    bndcfgs: int = 0
    apic_base: int = 0xFEE0_0900
    tsc_offset: int = 0
    tsc_scaling_ratio: int = TSC_RATIO_1
    rip: int = 0x1000
    rsp: int = 0
    evmcs: Evmcs | None = None
    msrs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class NestedState:
    """What struct nested_vmx keeps from one entry to the next.

    `vmcs02` is None before the first entry. `dirty_vmcs12` is set by VMPTRLD and by VMWRITE to a
    field that is not shadowed; without it the rarely changed fields of vmcs02 are left as they are.
    `shadow_vmcs12_cache` is the link pointer whose memory KVM has looked up, all ones after VMXON,
    and whether that lookup was spoilt since.
    """

    vmcs02: Vmcs | None = None
    vmcs02_launched: bool = False
    dirty_vmcs12: bool = True
    shadow_vmcs12_cache: tuple[int, bool] = (ALL_ONES, False)


@dataclass(frozen=True, slots=True)
class EntryRequest:
    """One VMLAUNCH or VMRESUME by L1 with everything that it depends on."""

    vmcs12: Vmcs
    l1: L1State = field(default_factory=L1State)
    memory: Memory = field(default_factory=Memory)
    launch: bool = True
    launched: bool = False
    """The launch state of vmcs12."""
    nested: NestedState = field(default_factory=NestedState)
    vmcs01: Vmcs | None = None
    """None: what KVM makes for the L1 state, see vmcs01.py."""


class Vcpu:
    """struct kvm_vcpu and struct vcpu_vmx while nested_vmx_run() works on them."""

    __slots__ = (
        "aborted",
        "apic_base",
        "behaviour",
        "cr0",
        "cr0_guest_owned_bits",
        "cr3",
        "cr4",
        "cr4_guest_owned_bits",
        "dirty_vmcs12",
        "dr7",
        "early_check",
        "efer",
        "fired",
        "guest_mode",
        "halted",
        "has_evmcs",
        "host",
        "in_smm",
        "kvm",
        "l1",
        "memory",
        "msr_autoload",
        "msrs",
        "nested_run_pending",
        "params",
        "pat",
        "pdptrs",
        "pre_vmenter_bndcfgs",
        "pre_vmenter_cet",
        "pre_vmenter_debugctl",
        "request",
        "rflags",
        "rip",
        "rmode",
        "rsp",
        "shadow_vmcs12_cache",
        "tsc_offset",
        "tsc_scaling_ratio",
        "tsc_written",
        "uret_efer",
        "virtual",
        "virtual_apic_stale",
        "vmcs",
        "vmcs01",
        "vmcs02",
        "vmcs02_initialized",
        "vmcs02_launched",
        "vmcs12",
        "vmcs12_writes",
        "waits_for_sipi",
        "warnings",
    )

    def __init__(self, kvm: Kvm, request: EntryRequest) -> None:
        l1 = request.l1
        processor = l1.processor
        self.kvm = kvm
        self.behaviour = kvm.behaviour
        self.params = kvm.params
        self.virtual = kvm.virtual
        self.request = request
        self.l1 = l1
        self.vmcs12 = request.vmcs12
        self.memory = GuestMemory(request.memory, kvm.slots, kvm.unwritten)
        self.has_evmcs = l1.evmcs is not None
        self.early_check = kvm.behaviour.has_dry_run and kvm.params.early_consistency_checks
        self.efer = processor.efer
        self.cr0 = processor.cr0
        self.cr3 = processor.cr3
        self.cr4 = processor.cr4
        self.rflags = processor.rflags
        self.rip = l1.rip
        self.rsp = l1.rsp
        self.dr7 = l1.dr7
        self.pat = l1.pat
        self.apic_base = l1.apic_base
        self.tsc_offset = l1.tsc_offset
        self.tsc_scaling_ratio = l1.tsc_scaling_ratio
        self.cr0_guest_owned_bits = 0
        self.cr4_guest_owned_bits = 0
        self.msrs = dict(l1.msrs)
        self.msr_autoload: dict[int, tuple[int, int]] = {}
        self.pdptrs: tuple[int, ...] | None = None
        self.tsc_written = False
        self.virtual_apic_stale = False
        self.guest_mode = False
        self.nested_run_pending = False
        self.in_smm = False
        self.shadow_vmcs12_cache = request.nested.shadow_vmcs12_cache
        self.pre_vmenter_debugctl = 0
        self.pre_vmenter_bndcfgs = 0
        self.pre_vmenter_cet: dict[str, int] = {}
        self.vmcs: dict[str, int] = {}
        self.vmcs01: dict[str, int] = {}
        self.vmcs02: dict[str, int] = {}
        self.vmcs12_writes: dict[str, int] = {}
        self.warnings: list[str] = []
        self.fired: list[str] = []
        self.dirty_vmcs12 = request.nested.dirty_vmcs12
        self.vmcs02_initialized = request.nested.vmcs02 is not None
        self.aborted = ""
        self.host = kvm.host
        self.uret_efer = kvm.host.efer
        self.vmcs02_launched = request.nested.vmcs02_launched
        self.halted = False
        self.waits_for_sipi = False
        self.rmode: RealMode | None = None

    def warn(self, place: str) -> None:
        """Note a WARN of the kernel, by function and what it is about."""
        self.warnings.append(place)
