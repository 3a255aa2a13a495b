# SPDX-License-Identifier: GPL-2.0-only
"""The mode of the logical processor that executes VMLAUNCH or VMRESUME."""

from __future__ import annotations

from dataclasses import dataclass

NO_POINTER = 0xFFFF_FFFF_FFFF_FFFF
"""A VMXON or current-VMCS pointer that is not valid: outside VMX operation, no current VMCS."""


@dataclass(frozen=True, slots=True)
class Processor:
    """The executing hypervisor's registers and what the processor remembers of it.

    The defaults are a 64-bit hypervisor in VMX root operation with a current VMCS. `cr0`, `cr3`,
    `cr4`, `efer` and `rflags` are 64 bits wide, `cpl` is 2 bits. In SMM the dual-monitor
    treatment is active: under the default treatment there is no VMX operation in SMM.
    """

    cr0: int = 0x8005_0033
    cr3: int = 0
    cr4: int = 0x2020
    efer: int = 0xD01
    rflags: int = 0x2
    cpl: int = 0
    cs_l: bool = True
    in_smm: bool = False
    blocking_by_mov_ss: bool = False
    vmxon_pointer: int = 0x1000
    current_vmcs: int = 0x2000
    current_vmcs_is_shadow: bool = False
    executive_vmcs_launched: bool = True
    """Launch state of the VMCS that the executive-VMCS pointer names; only read in SMM."""
    executive_controls_valid: bool = True
    """Whether that VMCS's execution controls pass their checks; none but required ones are 1."""
    rtit_ctl: int = 0
    """IA32_RTIT_CTL, 64 bits: with TraceEn (bit 0) the hypervisor is being traced."""
