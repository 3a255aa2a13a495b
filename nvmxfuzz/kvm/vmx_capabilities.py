# SPDX-License-Identifier: GPL-2.0-only
"""cpu_has_vmx_*() of vmx/capabilities.h: what the config says that KVM may use.

Where the kernel asks for several of them at one place, they are one function here.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, Tertiary, VmEntry
from nvmxfuzz.arch.vmx_msr import EptVpidCap, VmxBasic, VmxMisc
from nvmxfuzz.kvm.source import Kernel
from nvmxfuzz.kvm.vmcs_config import VmcsConfig

_VPID_SHIFT = 32


def cpu_has_virtual_nmis(config: VmcsConfig, kernel: Kernel) -> bool:
    """Whether NMIs of a guest can be virtual; where the config has NMI windows, with those."""
    wanted = kernel.cpu_based.optional & Primary.NMI_WINDOW_EXITING
    return (
        config.cpu_based_exec_ctrl & wanted == wanted
        and config.pin_based_exec_ctrl & Pin.VIRTUAL_NMIS != 0
    )


def cpu_has_vmx_ept(config: VmcsConfig) -> bool:
    """Whether EPT is complete enough for KVM: four levels, write-back, all-context INVEPT."""
    needed = EptVpidCap.PAGE_WALK_4 | EptVpidCap.MEMORY_TYPE_WB | EptVpidCap.INVEPT_ALL_CONTEXTS
    return has_secondary(config, Secondary.ENABLE_EPT) and config.ept & needed == needed


def cpu_has_vmx_vpid(config: VmcsConfig) -> bool:
    """Whether VPIDs can be used: the control, INVVPID, and one of its two wide forms."""
    capability = config.vpid << _VPID_SHIFT
    wide = EptVpidCap.INVVPID_SINGLE_CONTEXT | EptVpidCap.INVVPID_ALL_CONTEXTS
    return (
        has_secondary(config, Secondary.ENABLE_VPID)
        and capability & EptVpidCap.INVVPID != 0
        and capability & wide != 0
    )


def cpu_has_vmx_flexpriority(config: VmcsConfig) -> bool:
    """Whether the TPR shadow and APIC-access virtualisation both exist."""
    shadow = config.cpu_based_exec_ctrl & Primary.USE_TPR_SHADOW
    return shadow != 0 and has_secondary(config, Secondary.VIRTUALIZE_APIC_ACCESSES)


def cpu_has_vmx_apicv(config: VmcsConfig) -> bool:
    """Whether register virtualisation, interrupt delivery and posted interrupts all exist."""
    needed = Secondary.APIC_REGISTER_VIRTUALIZATION | Secondary.VIRTUAL_INTERRUPT_DELIVERY
    return (
        config.cpu_based_2nd_exec_ctrl & needed == needed
        and config.pin_based_exec_ctrl & Pin.PROCESS_POSTED_INTERRUPTS != 0
    )


def cpu_has_vmx_ipiv(config: VmcsConfig) -> bool:
    """Whether IPIs can be virtualised."""
    return config.cpu_based_3rd_exec_ctrl & Tertiary.IPI_VIRTUALIZATION != 0


def cpu_has_vmx_preemption_timer(config: VmcsConfig) -> bool:
    """Whether the VMX-preemption timer can be used."""
    return config.pin_based_exec_ctrl & Pin.ACTIVATE_VMX_PREEMPTION_TIMER != 0


def cpu_has_vmx_mpx(config: VmcsConfig) -> bool:
    """Whether VM entry can load IA32_BNDCFGS."""
    return config.vmentry_ctrl & VmEntry.LOAD_IA32_BNDCFGS != 0


def cpu_has_vmx_basic_inout(config: VmcsConfig) -> bool:
    """Whether VM exits for INS and OUTS report instruction information."""
    return config.basic & VmxBasic.INS_OUTS_INFORMATION != 0


def cpu_has_vmx_shadow_vmcs(config: VmcsConfig, misc: int) -> bool:
    """Whether VMCS shadowing can be used: it takes VMWRITE to read-only fields."""
    writes = misc & VmxMisc.VMWRITE_ANY_FIELD
    return writes != 0 and has_secondary(config, Secondary.VMCS_SHADOWING)


def has_secondary(config: VmcsConfig, control: int) -> bool:
    """Whether the config has that secondary control."""
    return config.cpu_based_2nd_exec_ctrl & control != 0
