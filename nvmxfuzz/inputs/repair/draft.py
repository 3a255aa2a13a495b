# SPDX-License-Identifier: GPL-2.0-only
"""The attempt under repair, as a mutable working copy."""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.controls import Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.inputs.repair.overlay import overlay
from nvmxfuzz.machine.attempt import Attempt, Instruction
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.machine.vmcs_fields import VmcsFields

ALL_ONES: Final = 0xFFFF_FFFF_FFFF_FFFF
LOW_HALF: Final = 0xFFFF_FFFF


class Coin:
    """The choices that a repair leaves open, by number.

    Where two repairs change equally little, a bit of the state itself decides: both ways occur
    over many states, and one state is always repaired the same way. The numbers below 40 belong
    to the table of dependent controls.
    """

    PAGING = 41
    CET = 42
    CODE_TYPE = 43
    EVENT_TYPE = 44
    IDLE_EVENT = 45
    BLOCKING_KIND = 46
    BLOCKING_IDLE = 47
    ENCLAVE = 48
    LINK_POINTER = 49
    RPL = 50
    FRED_LEVEL = 51


class DraftVmcs(VmcsFields):
    """The fields of a VMCS that can still change."""

    def __init__(self, vmcs: Vmcs) -> None:
        self.__dict__.update(vmcs.__dict__)


class Draft:
    """What a repair works on: the parts of an attempt, and the control words in effect.

    `pin` to `vm_entry` and what follows from them are filled in by `use_controls`: a control word
    that its activating control turns off counts as 0, and so does every VM-execution control of an
    entry that leaves SMM. `to_root` says that such an entry returns to VMX root operation.
    """

    __slots__ = (
        "_original",
        "caps",
        "coins",
        "ept",
        "ia32e",
        "instruction",
        "launch_state",
        "leaves_smm",
        "long_mode",
        "memory",
        "number_of_pass",
        "pin",
        "primary",
        "processor",
        "profile",
        "secondary",
        "tertiary",
        "to_root",
        "unrestricted",
        "vm_entry",
        "vm_exit",
        "vm_exit2",
        "vmcs",
    )

    def __init__(self, attempt: Attempt) -> None:
        self._original = attempt
        self.profile = attempt.profile
        self.caps = attempt.profile.caps
        self.processor = attempt.processor
        self.memory = attempt.memory
        self.instruction: Instruction = attempt.instruction
        self.launch_state = attempt.launch_state
        self.vmcs = vmcs = DraftVmcs(attempt.vmcs)
        self.long_mode = "long-mode" in attempt.profile.features
        self.coins = _coins(vmcs)
        self.number_of_pass = 0
        self.pin = self.primary = self.secondary = self.tertiary = 0
        self.vm_exit = self.vm_exit2 = self.vm_entry = 0
        self.ept = self.unrestricted = self.ia32e = 0
        self.leaves_smm = self.to_root = False

    def coin(self, number: int) -> int:
        """Return 0 or 1, always the same for one original state and one choice."""
        return self.coins >> number & 1

    def use_controls(self) -> None:
        """Take over the control words of the VMCS, as the processor would read them."""
        vmcs = self.vmcs
        self.vm_exit = vmcs.vm_exit_controls
        self.vm_exit2 = (
            vmcs.secondary_vm_exit_controls
            if self.vm_exit & VmExit.ACTIVATE_SECONDARY_CONTROLS
            else 0
        )
        self.vm_entry = vmcs.vm_entry_controls
        self.ia32e = self.vm_entry & VmEntry.IA_32E_MODE_GUEST
        self.leaves_smm = self.processor.in_smm and not self.vm_entry & VmEntry.ENTRY_TO_SMM
        if self.leaves_smm:
            return
        self.pin = vmcs.pin_based_vm_exec_control
        self.primary = primary = vmcs.cpu_based_vm_exec_control
        self.secondary = secondary = (
            vmcs.secondary_vm_exec_control if primary & Primary.ACTIVATE_SECONDARY_CONTROLS else 0
        )
        self.tertiary = (
            vmcs.tertiary_vm_exec_control if primary & Primary.ACTIVATE_TERTIARY_CONTROLS else 0
        )
        self.ept = secondary & Secondary.ENABLE_EPT
        self.unrestricted = secondary & Secondary.UNRESTRICTED_GUEST

    def canonical(self, address: int) -> int:
        """Return the address, made canonical for the processor's width of linear addresses.

        A processor without Intel 64 has no bits 63:32 to check.
        """
        if not self.long_mode:
            return address & LOW_HALF
        return extend_sign(address, self.profile.linear_address_bits)

    def read(self, address: int, size: int) -> bytes:
        """Return what memory holds now."""
        return self.memory.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Put `data` into memory, unless it is there already."""
        if self.memory.read(address, len(data)) != data:
            self.memory = overlay(self.memory, address, data)

    def attempt(self) -> Attempt:
        """Return the repaired attempt: the original itself where nothing had to change."""
        original = self._original
        vmcs = original.vmcs
        if vmcs.__dict__ != self.vmcs.__dict__:
            vmcs = vmcs.replace(self.vmcs.__dict__)
        elif (
            self.processor is original.processor
            and self.memory is original.memory
            and self.instruction == original.instruction
        ):
            return original
        return Attempt(
            profile=self.profile,
            vmcs=vmcs,
            processor=self.processor,
            memory=self.memory,
            instruction=self.instruction,
            launch_state=self.launch_state,
        )


def extend_sign(address: int, bits: int) -> int:
    """Return a 64-bit address whose bits 63:bits repeat bit `bits` - 1."""
    low = address & (1 << bits) - 1
    return low | (ALL_ONES & -(1 << bits) if low >> bits - 1 else 0)


def _coins(vmcs: VmcsFields) -> int:
    """Mix the fields that steer a repair into 64 bits."""
    mixed = (
        vmcs.pin_based_vm_exec_control * 0x9E37_79B9_7F4A_7C15
        ^ vmcs.cpu_based_vm_exec_control * 0xC2B2_AE3D_27D4_EB4F
        ^ vmcs.secondary_vm_exec_control * 0x1656_67B1_9E37_79F9
        ^ vmcs.tertiary_vm_exec_control * 0xA24B_AED4_963E_E407
        ^ vmcs.vm_entry_controls * 0x9FB2_1C65_1E98_DF25
        ^ vmcs.vm_entry_intr_info_field * 0xD6E8_FEB8_6659_FD93
        ^ vmcs.guest_rflags * 0xE703_7ED1_A0B4_28DB
        ^ vmcs.guest_cr0 * 0x8EBC_6AF0_9C88_C6E3
        ^ vmcs.guest_interruptibility_info * 0x5896_5AB1_1F3D_9C35
        ^ vmcs.guest_activity_state * 0xAEF1_7502_108E_F2D9
        ^ vmcs.vmcs_link_pointer * 0xFF51_AFD7_ED55_8CCD
        ^ vmcs.guest_ss_ar_bytes * 0xC4CE_B9FE_1A85_EC53
    ) & ALL_ONES
    return (mixed ^ mixed >> 29) * 0xBF58_476D_1CE4_E5B9 >> 8 & ALL_ONES
