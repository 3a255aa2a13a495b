# SPDX-License-Identifier: GPL-2.0-only
"""nested_vmx_setup_ctls_msrs() and its parts: the VMX capability MSRs that KVM offers to L1.

vmx/nested.c, with the kernel's function names and its order; up to 6.1 the parts are one function.
Control MSRs are kept in their true form: bits that must be 1 (`low`) and that may be 1 (`high`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.registers import Cr0, Cr4
from nvmxfuzz.arch.vmx_msr import EptVpidCap, VmxBasic, VmxMisc
from nvmxfuzz.kvm import nested_offers as offers
from nvmxfuzz.kvm.enable_flags import EnableFlags
from nvmxfuzz.kvm.evmcs import (
    CPU_BASED_ALWAYSON,
    PIN_BASED_ALWAYSON,
    VM_ENTRY_ALWAYSON,
    VM_EXIT_ALWAYSON,
)
from nvmxfuzz.kvm.host import HostCpu
from nvmxfuzz.kvm.msr_behaviour import MsrBehaviour
from nvmxfuzz.kvm.vmcs_config import VmcsConfig
from nvmxfuzz.kvm.vmx_capabilities import cpu_has_vmx_basic_inout, has_secondary

WORD = (1 << 32) - 1
VMCS12_REVISION = 0x11E5_7ED0
VMCS12_SIZE = 0x1000
VMCS12_HIGHEST_INDEX = 0x19
"""Of TSC_MULTIPLIER, in all versions of the model."""
X86_MEMTYPE_WB = 6
VMX_VMFUNC_EPTP_SWITCHING = 1


@dataclass(slots=True)
class NestedVmxMsrs:
    """struct nested_vmx_msrs. The halves of MSRs are 32 bits wide, the rest 64; all start at 0."""

    procbased_ctls_low: int = 0
    procbased_ctls_high: int = 0
    secondary_ctls_low: int = 0
    secondary_ctls_high: int = 0
    pinbased_ctls_low: int = 0
    pinbased_ctls_high: int = 0
    exit_ctls_low: int = 0
    exit_ctls_high: int = 0
    entry_ctls_low: int = 0
    entry_ctls_high: int = 0
    misc_low: int = 0
    misc_high: int = 0
    ept_caps: int = 0
    vpid_caps: int = 0
    basic: int = 0
    cr0_fixed0: int = 0
    cr0_fixed1: int = 0
    cr4_fixed0: int = 0
    cr4_fixed1: int = 0
    vmcs_enum: int = 0
    vmfunc_controls: int = 0

    def copy(self) -> NestedVmxMsrs:
        """Return MSRs of their own with the same values."""
        return replace(self)


@dataclass(frozen=True, slots=True)
class ControlSource:
    """The controls that may be 1 where KVM looks for them: in the config, or in hardware."""

    pin_must: int
    pin_based: int
    cpu_based: int
    secondary: int
    vmexit: int
    vmentry: int
    misc: int

    @classmethod
    def of(cls, config: VmcsConfig, host: HostCpu, behaviour: MsrBehaviour) -> ControlSource:
        """Return what this version looks at."""
        if behaviour.nested_from_config:
            return cls(
                pin_must=0,
                pin_based=config.pin_based_exec_ctrl,
                cpu_based=config.cpu_based_exec_ctrl,
                secondary=config.cpu_based_2nd_exec_ctrl,
                vmexit=config.vmexit_ctrl,
                vmentry=config.vmentry_ctrl,
                misc=config.misc or 0,
            )
        read = host.msrs.get
        pin_based = read(msr.MSR_IA32_VMX_PINBASED_CTLS, 0)
        cpu_based = read(msr.MSR_IA32_VMX_PROCBASED_CTLS, 0) >> 32
        has_secondary = cpu_based & Primary.ACTIVATE_SECONDARY_CONTROLS
        return cls(
            pin_must=pin_based & WORD,
            pin_based=pin_based >> 32,
            cpu_based=cpu_based,
            secondary=read(msr.MSR_IA32_VMX_PROCBASED_CTLS2, 0) >> 32 if has_secondary else 0,
            vmexit=read(msr.MSR_IA32_VMX_EXIT_CTLS, 0) >> 32,
            vmentry=read(msr.MSR_IA32_VMX_ENTRY_CTLS, 0) >> 32,
            misc=read(msr.MSR_IA32_VMX_MISC, 0),
        )


def nested_vmx_setup_ctls_msrs(
    config: VmcsConfig, flags: EnableFlags, host: HostCpu, behaviour: MsrBehaviour
) -> NestedVmxMsrs:
    """Return the MSRs that a vCPU starts from, and that values of userspace are held against."""
    msrs = NestedVmxMsrs()
    source = ControlSource.of(config, host, behaviour)
    nested_vmx_setup_pinbased_ctls(source, flags, msrs)
    nested_vmx_setup_exit_ctls(source, behaviour, msrs)
    nested_vmx_setup_entry_ctls(source, behaviour, msrs)
    nested_vmx_setup_cpubased_ctls(source, msrs)
    nested_vmx_setup_secondary_ctls(source, config, flags, behaviour, msrs)
    nested_vmx_setup_misc_data(source, msrs)
    nested_vmx_setup_basic(config, msrs)
    nested_vmx_setup_cr_fixed(config, host, behaviour, msrs)
    msrs.vmcs_enum = nested_vmx_calc_vmcs_enum_msr()
    return msrs


def nested_vmx_setup_pinbased_ctls(
    source: ControlSource, flags: EnableFlags, msrs: NestedVmxMsrs
) -> None:
    """Offer pin-based controls; the VMX-preemption timer is emulated and always there."""
    offered = offers.PIN_OFFERED | (Pin.PROCESS_POSTED_INTERRUPTS if flags.enable_apicv else 0)
    msrs.pinbased_ctls_low = source.pin_must | PIN_BASED_ALWAYSON
    msrs.pinbased_ctls_high = source.pin_based & offered | offers.PIN_ALWAYS


def nested_vmx_setup_exit_ctls(
    source: ControlSource, behaviour: MsrBehaviour, msrs: NestedVmxMsrs
) -> None:
    """Offer VM-exit controls; saving debug controls is L1's choice."""
    perf = VmExit.LOAD_IA32_PERF_GLOBAL_CTRL
    always = perf if behaviour.perf_global_ctrl_always else source.vmexit & perf
    msrs.exit_ctls_low = VM_EXIT_ALWAYSON & ~VmExit.SAVE_DEBUG_CONTROLS
    msrs.exit_ctls_high = source.vmexit & offers.EXIT_OFFERED | offers.EXIT_ALWAYS | always


def nested_vmx_setup_entry_ctls(
    source: ControlSource, behaviour: MsrBehaviour, msrs: NestedVmxMsrs
) -> None:
    """Offer VM-entry controls; loading debug controls is L1's choice."""
    perf = VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL
    always = perf if behaviour.perf_global_ctrl_always else source.vmentry & perf
    msrs.entry_ctls_low = VM_ENTRY_ALWAYSON & ~VmEntry.LOAD_DEBUG_CONTROLS
    msrs.entry_ctls_high = source.vmentry & offers.ENTRY_OFFERED | offers.ENTRY_ALWAYS | always


def nested_vmx_setup_cpubased_ctls(source: ControlSource, msrs: NestedVmxMsrs) -> None:
    """Offer primary controls; MSR bitmaps are emulated, and exits for CR3 are L1's choice."""
    msrs.procbased_ctls_low = offers.CPU_MUST
    msrs.procbased_ctls_high = source.cpu_based & offers.CPU_OFFERED | offers.CPU_ALWAYS


def nested_vmx_setup_secondary_ctls(
    source: ControlSource,
    config: VmcsConfig,
    flags: EnableFlags,
    behaviour: MsrBehaviour,
    msrs: NestedVmxMsrs,
) -> None:
    """Offer secondary controls, with the EPT, VPID and VM-function capabilities."""
    wait = Secondary.ENABLE_USER_WAIT_AND_PAUSE if behaviour.offers_user_wait else 0
    high = source.secondary & (offers.SECONDARY_OFFERED | wait) | Secondary.VMCS_SHADOWING
    if flags.enable_ept:
        high |= Secondary.ENABLE_EPT
        msrs.ept_caps = config.ept & offers.EPT_OFFERED | offers.EPT_ALWAYS
        if flags.enable_ept_ad_bits:
            high |= Secondary.ENABLE_PML
            msrs.ept_caps |= EptVpidCap.ACCESSED_DIRTY
    if has_secondary(config, Secondary.ENABLE_VM_FUNCTIONS):
        high |= Secondary.ENABLE_VM_FUNCTIONS
        msrs.vmfunc_controls = VMX_VMFUNC_EPTP_SWITCHING if flags.enable_ept else 0
    if flags.enable_vpid:
        high |= Secondary.ENABLE_VPID
        msrs.vpid_caps = offers.VPID_CAPS
    if flags.enable_unrestricted_guest:
        high |= Secondary.UNRESTRICTED_GUEST
    if flags.flexpriority_enabled:
        high |= Secondary.VIRTUALIZE_APIC_ACCESSES
    if flags.enable_sgx:
        high |= Secondary.ENABLE_ENCLS_EXITING
    msrs.secondary_ctls_low = 0
    msrs.secondary_ctls_high = high


def nested_vmx_setup_misc_data(source: ControlSource, msrs: NestedVmxMsrs) -> None:
    """Offer the activity states HLT and wait-for-SIPI, and the rate of the emulated timer."""
    msrs.misc_low = source.misc & VmxMisc.STORE_EFER_LMA | offers.MISC_ALWAYS
    msrs.misc_high = 0


def nested_vmx_setup_basic(config: VmcsConfig, msrs: NestedVmxMsrs) -> None:
    """Describe vmcs12: its revision, a page in size, write-back memory."""
    msrs.basic = VMCS12_REVISION | VMCS12_SIZE << 32 | X86_MEMTYPE_WB << 50 | VmxBasic.TRUE_CONTROLS
    if cpu_has_vmx_basic_inout(config):
        msrs.basic |= VmxBasic.INS_OUTS_INFORMATION


def nested_vmx_setup_cr_fixed(
    config: VmcsConfig, host: HostCpu, behaviour: MsrBehaviour, msrs: NestedVmxMsrs
) -> None:
    """Fix what a Core 2 fixes; what may be 1 is the processor's, until the vCPU has a CPUID."""
    msrs.cr0_fixed0 = Cr0.PE | Cr0.PG | Cr0.NE
    msrs.cr4_fixed0 = int(Cr4.VMXE)
    msrs.cr0_fixed1 = host.msrs.get(msr.MSR_IA32_VMX_CR0_FIXED1, 0)
    msrs.cr4_fixed1 = host.msrs.get(msr.MSR_IA32_VMX_CR4_FIXED1, 0)
    if behaviour.sets_umip and vmx_umip_emulated(config, host, behaviour):
        msrs.cr4_fixed1 |= Cr4.UMIP


def vmx_umip_emulated(config: VmcsConfig, host: HostCpu, behaviour: MsrBehaviour) -> bool:
    """Whether KVM emulates UMIP by means of descriptor-table exiting."""
    if "UMIP" in host.features and not behaviour.umip_emulated_beside_hardware:
        return False
    return has_secondary(config, Secondary.DESCRIPTOR_TABLE_EXITING)


def nested_vmx_calc_vmcs_enum_msr() -> int:
    """Return IA32_VMX_VMCS_ENUM: the highest index of any field of vmcs12."""
    return VMCS12_HIGHEST_INDEX << 1


@dataclass(frozen=True, slots=True)
class ControlMsr:
    """Where an MSR of two halves is kept, and the bits that its default form must have as 1."""

    low: str
    high: str
    alwayson: int = 0


_PIN = ("pinbased_ctls_low", "pinbased_ctls_high")
_CPU = ("procbased_ctls_low", "procbased_ctls_high")
_EXIT = ("exit_ctls_low", "exit_ctls_high")
_ENTRY = ("entry_ctls_low", "entry_ctls_high")

CONTROL_MSRS: Mapping[int, ControlMsr] = MappingProxyType(
    {
        msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS: ControlMsr(*_PIN),
        msr.MSR_IA32_VMX_PINBASED_CTLS: ControlMsr(*_PIN, PIN_BASED_ALWAYSON),
        msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS: ControlMsr(*_CPU),
        msr.MSR_IA32_VMX_PROCBASED_CTLS: ControlMsr(*_CPU, CPU_BASED_ALWAYSON),
        msr.MSR_IA32_VMX_TRUE_EXIT_CTLS: ControlMsr(*_EXIT),
        msr.MSR_IA32_VMX_EXIT_CTLS: ControlMsr(*_EXIT, VM_EXIT_ALWAYSON),
        msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS: ControlMsr(*_ENTRY),
        msr.MSR_IA32_VMX_ENTRY_CTLS: ControlMsr(*_ENTRY, VM_ENTRY_ALWAYSON),
        msr.MSR_IA32_VMX_PROCBASED_CTLS2: ControlMsr("secondary_ctls_low", "secondary_ctls_high"),
        msr.MSR_IA32_VMX_MISC: ControlMsr("misc_low", "misc_high"),
        msr.MSR_IA32_VMX_EPT_VPID_CAP: ControlMsr("ept_caps", "vpid_caps"),
    }
)
"""MSRs that are kept as two halves of 32 bits."""

WHOLE_MSRS: Mapping[int, str] = MappingProxyType(
    {
        msr.MSR_IA32_VMX_BASIC: "basic",
        msr.MSR_IA32_VMX_CR0_FIXED0: "cr0_fixed0",
        msr.MSR_IA32_VMX_CR0_FIXED1: "cr0_fixed1",
        msr.MSR_IA32_VMX_CR4_FIXED0: "cr4_fixed0",
        msr.MSR_IA32_VMX_CR4_FIXED1: "cr4_fixed1",
        msr.MSR_IA32_VMX_VMCS_ENUM: "vmcs_enum",
        msr.MSR_IA32_VMX_VMFUNC: "vmfunc_controls",
    }
)
"""MSRs that are kept whole."""


def vmx_get_vmx_msr(msrs: NestedVmxMsrs, index: int) -> int | None:
    """Return the value of the VMX capability MSR `index`; None is the kernel's 1, no such MSR.

    The default form of a control MSR is the true one with its default1 bits set in the low half.
    """
    whole = WHOLE_MSRS.get(index)
    if whole is not None:
        return int(getattr(msrs, whole))
    halves = CONTROL_MSRS.get(index)
    if halves is None:
        return None
    low, high = getattr(msrs, halves.low), getattr(msrs, halves.high)
    return int(low | high << 32 | halves.alwayson)
