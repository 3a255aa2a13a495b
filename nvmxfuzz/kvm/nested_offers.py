# SPDX-License-Identifier: GPL-2.0-only
"""What KVM offers to L1 of each word of VMX capabilities: if the host has it, or always.

Read from nested_vmx_setup_ctls_msrs() and its parts; the same in 5.18, 6.1 and 6.12 but for what
`MsrBehaviour` tells. `*_OFFERED`: where the host has it. `*_ALWAYS`: emulated, or costs nothing.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.vmx_msr import EptVpidCap, VmxMisc
from nvmxfuzz.kvm.evmcs import (
    CPU_BASED_ALWAYSON,
    PIN_BASED_ALWAYSON,
    VM_ENTRY_ALWAYSON,
    VM_EXIT_ALWAYSON,
)

VMX_MISC_EMULATED_PREEMPTION_TIMER_RATE = 5
"""L1's VMX-preemption timer counts down once in 32 TSC ticks, whatever the processor does."""

PIN_OFFERED = Pin.EXTERNAL_INTERRUPT_EXITING | Pin.NMI_EXITING | Pin.VIRTUAL_NMIS
PIN_ALWAYS = PIN_BASED_ALWAYSON | Pin.ACTIVATE_VMX_PREEMPTION_TIMER

EXIT_OFFERED = (
    VmExit.HOST_ADDRESS_SPACE_SIZE
    | VmExit.LOAD_IA32_PAT
    | VmExit.SAVE_IA32_PAT
    | VmExit.CLEAR_IA32_BNDCFGS
)
EXIT_ALWAYS = (
    VM_EXIT_ALWAYSON
    | VmExit.LOAD_IA32_EFER
    | VmExit.SAVE_IA32_EFER
    | VmExit.SAVE_VMX_PREEMPTION_TIMER_VALUE
    | VmExit.ACKNOWLEDGE_INTERRUPT_ON_EXIT
)

ENTRY_OFFERED = VmEntry.IA_32E_MODE_GUEST | VmEntry.LOAD_IA32_PAT | VmEntry.LOAD_IA32_BNDCFGS
ENTRY_ALWAYS = VM_ENTRY_ALWAYSON | VmEntry.LOAD_IA32_EFER

CPU_OFFERED = (
    Primary.INTERRUPT_WINDOW_EXITING
    | Primary.NMI_WINDOW_EXITING
    | Primary.USE_TSC_OFFSETTING
    | Primary.HLT_EXITING
    | Primary.INVLPG_EXITING
    | Primary.MWAIT_EXITING
    | Primary.CR3_LOAD_EXITING
    | Primary.CR3_STORE_EXITING
    | Primary.CR8_LOAD_EXITING
    | Primary.CR8_STORE_EXITING
    | Primary.MOV_DR_EXITING
    | Primary.UNCONDITIONAL_IO_EXITING
    | Primary.USE_IO_BITMAPS
    | Primary.MONITOR_TRAP_FLAG
    | Primary.MONITOR_EXITING
    | Primary.RDPMC_EXITING
    | Primary.RDTSC_EXITING
    | Primary.PAUSE_EXITING
    | Primary.USE_TPR_SHADOW
    | Primary.ACTIVATE_SECONDARY_CONTROLS
)
CPU_ALWAYS = CPU_BASED_ALWAYSON | Primary.USE_MSR_BITMAPS
CPU_MUST = CPU_BASED_ALWAYSON & ~(Primary.CR3_LOAD_EXITING | Primary.CR3_STORE_EXITING)

SECONDARY_OFFERED = (
    Secondary.DESCRIPTOR_TABLE_EXITING
    | Secondary.ENABLE_RDTSCP
    | Secondary.VIRTUALIZE_X2APIC_MODE
    | Secondary.WBINVD_EXITING
    | Secondary.APIC_REGISTER_VIRTUALIZATION
    | Secondary.VIRTUAL_INTERRUPT_DELIVERY
    | Secondary.RDRAND_EXITING
    | Secondary.ENABLE_INVPCID
    | Secondary.RDSEED_EXITING
    | Secondary.ENABLE_XSAVES_XRSTORS
    | Secondary.USE_TSC_SCALING
)

EPT_OFFERED = (
    EptVpidCap.PAGE_WALK_4
    | EptVpidCap.PAGE_WALK_5
    | EptVpidCap.MEMORY_TYPE_WB
    | EptVpidCap.INVEPT
    | EptVpidCap.EXECUTE_ONLY
)
EPT_ALWAYS = (
    EptVpidCap.INVEPT_ALL_CONTEXTS
    | EptVpidCap.INVEPT_SINGLE_CONTEXT
    | EptVpidCap.PAGE_2MB
    | EptVpidCap.PAGE_1GB
)
VPID_CAPS = (
    EptVpidCap.INVVPID
    | EptVpidCap.INVVPID_INDIVIDUAL_ADDRESS
    | EptVpidCap.INVVPID_SINGLE_CONTEXT
    | EptVpidCap.INVVPID_ALL_CONTEXTS
    | EptVpidCap.INVVPID_SINGLE_CONTEXT_RETAINING_GLOBALS
) >> 32
MISC_ALWAYS = (
    VmxMisc.VMWRITE_ANY_FIELD
    | VMX_MISC_EMULATED_PREEMPTION_TIMER_RATE
    | VmxMisc.ACTIVITY_HLT
    | VmxMisc.ACTIVITY_WAIT_FOR_SIPI
)
