# SPDX-License-Identifier: GPL-2.0-only
"""Which VMX controls KVM requires and which it takes where the processor has them, by version.

Read from setup_vmcs_config() of 5.18, where the sets are local variables, and from the
KVM_REQUIRED_VMX_* and KVM_OPTIONAL_VMX_* macros of vmx/vmx.h of 6.1 and 6.12, all for x86_64.
"""

from __future__ import annotations

from dataclasses import dataclass

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, Tertiary, VmEntry, VmExit


@dataclass(frozen=True, slots=True)
class ControlSet:
    """Masks of one control word: without a required control KVM does not load."""

    required: int
    optional: int


PIN_BASED = ControlSet(
    required=Pin.EXTERNAL_INTERRUPT_EXITING | Pin.NMI_EXITING,
    optional=(Pin.VIRTUAL_NMIS | Pin.PROCESS_POSTED_INTERRUPTS | Pin.ACTIVATE_VMX_PREEMPTION_TIMER),
)

CPU_BASED_5_18 = ControlSet(
    required=(
        Primary.HLT_EXITING
        | Primary.CR8_LOAD_EXITING
        | Primary.CR8_STORE_EXITING
        | Primary.CR3_LOAD_EXITING
        | Primary.CR3_STORE_EXITING
        | Primary.UNCONDITIONAL_IO_EXITING
        | Primary.MOV_DR_EXITING
        | Primary.USE_TSC_OFFSETTING
        | Primary.MWAIT_EXITING
        | Primary.MONITOR_EXITING
        | Primary.INVLPG_EXITING
        | Primary.RDPMC_EXITING
    ),
    optional=(
        Primary.USE_TPR_SHADOW | Primary.USE_MSR_BITMAPS | Primary.ACTIVATE_SECONDARY_CONTROLS
    ),
)

# From 6.1 on the config also lists what KVM never sets for L1 but offers to it.
CPU_BASED_6_1 = ControlSet(
    required=CPU_BASED_5_18.required | Primary.INTERRUPT_WINDOW_EXITING,
    optional=(
        CPU_BASED_5_18.optional
        | Primary.RDTSC_EXITING
        | Primary.USE_IO_BITMAPS
        | Primary.MONITOR_TRAP_FLAG
        | Primary.NMI_WINDOW_EXITING
        | Primary.PAUSE_EXITING
        | Primary.ACTIVATE_TERTIARY_CONTROLS
    ),
)

# ENCLS exiting is a member only where the processor has SGX: see Kernel.filters_encls_after.
SECONDARY_5_18 = ControlSet(
    required=0,
    optional=(
        Secondary.VIRTUALIZE_APIC_ACCESSES
        | Secondary.VIRTUALIZE_X2APIC_MODE
        | Secondary.WBINVD_EXITING
        | Secondary.ENABLE_VPID
        | Secondary.ENABLE_EPT
        | Secondary.UNRESTRICTED_GUEST
        | Secondary.PAUSE_LOOP_EXITING
        | Secondary.DESCRIPTOR_TABLE_EXITING
        | Secondary.ENABLE_RDTSCP
        | Secondary.ENABLE_INVPCID
        | Secondary.APIC_REGISTER_VIRTUALIZATION
        | Secondary.VIRTUAL_INTERRUPT_DELIVERY
        | Secondary.VMCS_SHADOWING
        | Secondary.ENABLE_XSAVES_XRSTORS
        | Secondary.RDSEED_EXITING
        | Secondary.RDRAND_EXITING
        | Secondary.ENABLE_PML
        | Secondary.USE_TSC_SCALING
        | Secondary.ENABLE_USER_WAIT_AND_PAUSE
        | Secondary.INTEL_PT_USES_GUEST_PHYSICAL_ADDRESSES
        | Secondary.CONCEAL_VMX_FROM_PT
        | Secondary.ENABLE_VM_FUNCTIONS
        | Secondary.VMM_BUS_LOCK_DETECTION
        | Secondary.ENABLE_ENCLS_EXITING
    ),
)

SECONDARY_6_1 = ControlSet(
    required=0, optional=SECONDARY_5_18.optional | Secondary.INSTRUCTION_TIMEOUT
)

SECONDARY_6_12 = ControlSet(
    required=0, optional=SECONDARY_6_1.optional | Secondary.EPT_VIOLATION_VE
)

TERTIARY_6_1 = int(Tertiary.IPI_VIRTUALIZATION)

VMEXIT_5_18 = ControlSet(
    required=(
        VmExit.SAVE_DEBUG_CONTROLS
        | VmExit.ACKNOWLEDGE_INTERRUPT_ON_EXIT
        | VmExit.HOST_ADDRESS_SPACE_SIZE
    ),
    optional=(
        VmExit.LOAD_IA32_PERF_GLOBAL_CTRL
        | VmExit.LOAD_IA32_PAT
        | VmExit.LOAD_IA32_EFER
        | VmExit.CLEAR_IA32_BNDCFGS
        | VmExit.CONCEAL_VMX_FROM_PT
        | VmExit.CLEAR_IA32_RTIT_CTL
    ),
)

VMEXIT_6_1 = ControlSet(
    required=VMEXIT_5_18.required,
    optional=(
        VMEXIT_5_18.optional
        | VmExit.SAVE_IA32_PAT
        | VmExit.SAVE_IA32_EFER
        | VmExit.SAVE_VMX_PREEMPTION_TIMER_VALUE
    ),
)

VMENTRY_5_18 = ControlSet(
    required=int(VmEntry.LOAD_DEBUG_CONTROLS),
    optional=(
        VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL
        | VmEntry.LOAD_IA32_PAT
        | VmEntry.LOAD_IA32_EFER
        | VmEntry.LOAD_IA32_BNDCFGS
        | VmEntry.CONCEAL_VMX_FROM_PT
        | VmEntry.LOAD_IA32_RTIT_CTL
    ),
)

VMENTRY_6_1 = ControlSet(
    required=VMENTRY_5_18.required | VmEntry.IA_32E_MODE_GUEST, optional=VMENTRY_5_18.optional
)

VMCS_ENTRY_EXIT_PAIRS = (
    (int(VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL), int(VmExit.LOAD_IA32_PERF_GLOBAL_CTRL)),
    (int(VmEntry.LOAD_IA32_PAT), int(VmExit.LOAD_IA32_PAT)),
    (int(VmEntry.LOAD_IA32_EFER), int(VmExit.LOAD_IA32_EFER)),
    (int(VmEntry.LOAD_IA32_BNDCFGS), int(VmExit.CLEAR_IA32_BNDCFGS)),
    (int(VmEntry.LOAD_IA32_RTIT_CTL), int(VmExit.CLEAR_IA32_RTIT_CTL)),
)
"""(VM-entry control, VM-exit control) in KVM's order, of which one without the other is no use."""
