# SPDX-License-Identifier: GPL-2.0-only
"""What the rules look at: one attempt, with the control words that are in effect."""

from __future__ import annotations

from nvmxfuzz.arch.controls import Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.events import InterruptionInfo
from nvmxfuzz.machine.attempt import Attempt


class Entry:
    """One attempt as the rules read it; built once per judgement, never changed after.

    A control that the processor does not support is 0 here whatever the VMCS says: rules on what
    it would do are n/a, the rule on reserved bits is not. A control word that its activating
    control turns off is 0 as well, as the processor treats it.
    So are all VM-execution controls on a return from SMM: the current VMCS's play no part in it.
    `event` is the VM-entry interruption-information field if its valid bit is set, else 0.
    """

    __slots__ = (
        "attempt",
        "caps",
        "ept",
        "event",
        "event_type",
        "event_vector",
        "ia32e_guest",
        "in_smm",
        "intel_64",
        "memory",
        "pin",
        "primary",
        "processor",
        "profile",
        "secondary",
        "tertiary",
        "unrestricted",
        "vm_entry",
        "vm_exit",
        "vm_exit2",
        "vmcs",
    )

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.vmcs = vmcs = attempt.vmcs
        self.profile = attempt.profile
        self.caps = caps = attempt.profile.caps
        self.processor = attempt.processor
        self.in_smm = int(attempt.processor.in_smm)
        self.intel_64 = int("long-mode" in attempt.profile.features)
        self.memory = attempt.memory
        self.vm_entry = vm_entry = vmcs.vm_entry_controls & caps.entry_may
        if self.in_smm and not vm_entry & VmEntry.ENTRY_TO_SMM:
            self.pin = self.primary = self.secondary = self.tertiary = 0
        else:
            self.pin = vmcs.pin_based_vm_exec_control & caps.pin_may
            self.primary = primary = vmcs.cpu_based_vm_exec_control & caps.primary_may
            self.secondary = (
                vmcs.secondary_vm_exec_control & caps.secondary_may
                if primary & Primary.ACTIVATE_SECONDARY_CONTROLS
                else 0
            )
            self.tertiary = (
                vmcs.tertiary_vm_exec_control & caps.tertiary_may
                if primary & Primary.ACTIVATE_TERTIARY_CONTROLS
                else 0
            )
        self.vm_exit = vmcs.vm_exit_controls & caps.exit_may
        self.vm_exit2 = (
            vmcs.secondary_vm_exit_controls & caps.exit2_may
            if self.vm_exit & VmExit.ACTIVATE_SECONDARY_CONTROLS
            else 0
        )
        self.ept = self.secondary & Secondary.ENABLE_EPT
        self.unrestricted = self.secondary & Secondary.UNRESTRICTED_GUEST
        self.ia32e_guest = vm_entry & VmEntry.IA_32E_MODE_GUEST
        event = vmcs.vm_entry_intr_info_field
        self.event = event = event if event & InterruptionInfo.VALID else 0
        self.event_type = (event >> 8) & 7 if event else -1
        self.event_vector = event & 0xFF
