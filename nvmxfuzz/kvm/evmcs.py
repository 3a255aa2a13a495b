# SPDX-License-Identifier: GPL-2.0-only
"""Which controls KVM keeps when it runs on Hyper-V with the enlightened VMCS, version 1.

evmcs_sanitize_exec_ctrls() of vmx/evmcs.c (5.18) and vmx/vmx_onhyperv.c (6.12): the first clears a
list of controls in silence, the second keeps a list of controls and warns about the rest. 6.1 has
no such function: its vmx/evmcs.c only filters what KVM as a Hyper-V host offers to L1.
"""

from __future__ import annotations

from dataclasses import dataclass

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit

WORD = (1 << 32) - 1

# The default1 controls: PIN_BASED_ALWAYSON_WITHOUT_TRUE_MSR and its like in asm/vmx.h.
PIN_BASED_ALWAYSON = 0x0000_0016
CPU_BASED_ALWAYSON = 0x0401_E172
VM_EXIT_ALWAYSON = 0x0003_6DFF
VM_ENTRY_ALWAYSON = 0x0000_11FF


@dataclass(frozen=True, slots=True)
class EvmcsFilter:
    """The mask of each word of the config that stays; the fields are in the kernel's order."""

    cpu_based_exec_ctrl: int
    pin_based_exec_ctrl: int
    cpu_based_2nd_exec_ctrl: int
    cpu_based_3rd_exec_ctrl: int
    vmentry_ctrl: int
    vmexit_ctrl: int
    warns: bool


EVMCS_5_18 = EvmcsFilter(
    cpu_based_exec_ctrl=WORD,
    pin_based_exec_ctrl=WORD & ~(Pin.PROCESS_POSTED_INTERRUPTS | Pin.ACTIVATE_VMX_PREEMPTION_TIMER),
    cpu_based_2nd_exec_ctrl=WORD
    & ~(
        Secondary.VIRTUAL_INTERRUPT_DELIVERY
        | Secondary.VIRTUALIZE_APIC_ACCESSES
        | Secondary.APIC_REGISTER_VIRTUALIZATION
        | Secondary.ENABLE_PML
        | Secondary.ENABLE_VM_FUNCTIONS
        | Secondary.VMCS_SHADOWING
        | Secondary.USE_TSC_SCALING
        | Secondary.PAUSE_LOOP_EXITING
    ),
    cpu_based_3rd_exec_ctrl=0,
    vmentry_ctrl=WORD & ~VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL,
    vmexit_ctrl=WORD
    & ~(VmExit.LOAD_IA32_PERF_GLOBAL_CTRL | VmExit.SAVE_VMX_PREEMPTION_TIMER_VALUE),
    warns=False,
)

EVMCS_6_12 = EvmcsFilter(
    cpu_based_exec_ctrl=(
        CPU_BASED_ALWAYSON
        | Primary.HLT_EXITING
        | Primary.CR3_LOAD_EXITING
        | Primary.CR3_STORE_EXITING
        | Primary.UNCONDITIONAL_IO_EXITING
        | Primary.MOV_DR_EXITING
        | Primary.USE_TSC_OFFSETTING
        | Primary.MWAIT_EXITING
        | Primary.MONITOR_EXITING
        | Primary.INVLPG_EXITING
        | Primary.RDPMC_EXITING
        | Primary.INTERRUPT_WINDOW_EXITING
        | Primary.CR8_LOAD_EXITING
        | Primary.CR8_STORE_EXITING
        | Primary.RDTSC_EXITING
        | Primary.USE_TPR_SHADOW
        | Primary.USE_IO_BITMAPS
        | Primary.MONITOR_TRAP_FLAG
        | Primary.USE_MSR_BITMAPS
        | Primary.NMI_WINDOW_EXITING
        | Primary.PAUSE_EXITING
        | Primary.ACTIVATE_SECONDARY_CONTROLS
    ),
    pin_based_exec_ctrl=(
        PIN_BASED_ALWAYSON | Pin.EXTERNAL_INTERRUPT_EXITING | Pin.NMI_EXITING | Pin.VIRTUAL_NMIS
    ),
    cpu_based_2nd_exec_ctrl=(
        Secondary.VIRTUALIZE_X2APIC_MODE
        | Secondary.WBINVD_EXITING
        | Secondary.ENABLE_VPID
        | Secondary.ENABLE_EPT
        | Secondary.UNRESTRICTED_GUEST
        | Secondary.DESCRIPTOR_TABLE_EXITING
        | Secondary.ENABLE_RDTSCP
        | Secondary.ENABLE_INVPCID
        | Secondary.ENABLE_XSAVES_XRSTORS
        | Secondary.RDSEED_EXITING
        | Secondary.RDRAND_EXITING
        | Secondary.USE_TSC_SCALING
        | Secondary.ENABLE_USER_WAIT_AND_PAUSE
        | Secondary.INTEL_PT_USES_GUEST_PHYSICAL_ADDRESSES
        | Secondary.CONCEAL_VMX_FROM_PT
        | Secondary.VMM_BUS_LOCK_DETECTION
        | Secondary.INSTRUCTION_TIMEOUT
        | Secondary.ENABLE_ENCLS_EXITING
    ),
    cpu_based_3rd_exec_ctrl=0,
    vmentry_ctrl=(
        VM_ENTRY_ALWAYSON
        | VmEntry.LOAD_DEBUG_CONTROLS
        | VmEntry.IA_32E_MODE_GUEST
        | VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL
        | VmEntry.LOAD_IA32_PAT
        | VmEntry.LOAD_IA32_EFER
        | VmEntry.LOAD_IA32_BNDCFGS
        | VmEntry.CONCEAL_VMX_FROM_PT
        | VmEntry.LOAD_IA32_RTIT_CTL
    ),
    vmexit_ctrl=(
        VM_EXIT_ALWAYSON
        | VmExit.SAVE_DEBUG_CONTROLS
        | VmExit.ACKNOWLEDGE_INTERRUPT_ON_EXIT
        | VmExit.HOST_ADDRESS_SPACE_SIZE
        | VmExit.LOAD_IA32_PERF_GLOBAL_CTRL
        | VmExit.SAVE_IA32_PAT
        | VmExit.LOAD_IA32_PAT
        | VmExit.SAVE_IA32_EFER
        | VmExit.LOAD_IA32_EFER
        | VmExit.CLEAR_IA32_BNDCFGS
        | VmExit.CONCEAL_VMX_FROM_PT
        | VmExit.CLEAR_IA32_RTIT_CTL
    ),
    warns=True,
)
