# SPDX-License-Identifier: GPL-2.0-only
"""Named states to tell a case against: each enters the guest on every profile that can run it.

A base sets the controls that its profile demands, and those that its kind of guest needs. Pointers
are valid even where no control uses them yet, so that turning a control on breaks no other rule.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from nvmxfuzz.arch.controls import Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.paging import Eptp, MemoryType
from nvmxfuzz.arch.registers import Cr4
from nvmxfuzz.arch.vmx_msr import EptVpidCap
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs import base_guests, places
from nvmxfuzz.inputs.case import ZERO
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.outside import nearest, show
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.machine.vmcs import Vmcs

DEFAULT_BASE: Final = "guest-64"
GUEST_BASES: Final = ("guest-64", "guest-32", "guest-pae", "guest-real", "guest-v86")
ALL_BASES: Final = (*GUEST_BASES, ZERO)

_RESET_PAT = 0x0007_0406_0007_0406
_CR0 = 0x8005_0033
_PDPTE = 0x5_0001
_MSR_LIST = ((0x174, 0x10), (0x175, 0x6000), (0x176, 0x7000), (0x277, _RESET_PAT)) * 2
"""What the MSR-load area holds: SYSENTER_CS, _ESP, _EIP and PAT, which every processor has."""

_POINTERS: Final = {
    "io_bitmap_a": places.IO_BITMAP_A,
    "io_bitmap_b": places.IO_BITMAP_B,
    "msr_bitmap": places.MSR_BITMAP,
    "vm_exit_msr_store_addr": places.EXIT_MSR_STORE_AREA,
    "vm_exit_msr_load_addr": places.EXIT_MSR_LOAD_AREA,
    "vm_entry_msr_load_addr": places.MSR_LOAD_AREA,
    "executive_vmcs_pointer": places.VMXON_REGION,
    "pml_address": places.PML_LOG,
    "virtual_apic_page_addr": places.VIRTUAL_APIC_PAGE,
    "apic_access_addr": places.APIC_ACCESS_PAGE,
    "posted_intr_desc_addr": places.POSTED_INTERRUPT_DESCRIPTOR,
    "eptp_list_address": places.EPTP_LIST,
    "vmread_bitmap": places.VMREAD_BITMAP,
    "vmwrite_bitmap": places.VMWRITE_BITMAP,
    "ve_information_address": places.VE_INFORMATION,
    "sub_page_permission_table_pointer": places.SUB_PAGE_PERMISSION_TABLE,
    "low_pasid_directory_address": places.LOW_PASID_DIRECTORY,
    "high_pasid_directory_address": places.HIGH_PASID_DIRECTORY,
    "hlat_pointer": places.HLAT_PML4,
    "pid_pointer_table": places.PID_POINTER_TABLE,
    "vmcs_link_pointer": 0xFFFF_FFFF_FFFF_FFFF,
}

_NUMBERS: Final = {
    "virtual_processor_id": 1,
    "posted_intr_nv": 0xF2,
    "guest_pml_index": 511,
    "tsc_multiplier": 1 << 48,
    "vm_entry_instruction_len": 1,
    "vmx_preemption_timer_value": 0xFFFF,
    "guest_smbase": 0x3_0000,
}

_HOST: Final = {
    "host_cs_selector": 0x10,
    "host_ss_selector": 0x18,
    "host_tr_selector": 0x40,
    "host_cr3": places.HOST_PAGE_TABLE,
    "host_gs_base": 0x8000,
    "host_tr_base": 0x9000,
    "host_gdtr_base": 0xA000,
    "host_idtr_base": 0xB000,
    "host_ia32_sysenter_cs": 0x10,
    "host_ia32_sysenter_esp": 0xC000,
    "host_ia32_sysenter_eip": 0xD000,
    "host_rsp": 0xE000,
    "host_rip": 0xF000,
    "host_ia32_pat": _RESET_PAT,
}


def has_long_mode(profile: Profile) -> bool:
    """Tell whether `profile` can run a 64-bit hypervisor with a 64-bit guest."""
    caps = profile.caps
    return bool(
        "long-mode" in profile.features
        and caps.entry_may & VmEntry.IA_32E_MODE_GUEST
        and caps.exit_may & VmExit.HOST_ADDRESS_SPACE_SIZE
    )


def has_unrestricted_guest(profile: Profile) -> bool:
    """Tell whether `profile` can run a guest without paging or protection."""
    caps = profile.caps
    needed = Secondary.ENABLE_EPT | Secondary.UNRESTRICTED_GUEST
    return bool(
        caps.primary_may & Primary.ACTIVATE_SECONDARY_CONTROLS
        and caps.secondary_may & needed == needed
    )


def base_names(profile: Profile) -> tuple[str, ...]:
    """Return the bases that enter the guest on `profile`, the usual one first."""
    missing = set()
    if not has_long_mode(profile):
        missing.add("guest-64")
    if not has_unrestricted_guest(profile):
        missing.add("guest-real")
    return tuple(name for name in GUEST_BASES if name not in missing)


def default_base(profile: Profile) -> str:
    """Return the base of a case that names none."""
    return base_names(profile)[0]


@lru_cache(maxsize=512)
def base(name: str, profile: Profile) -> Attempt:
    """Return the base `name` on `profile`.

    It can be built on any profile, and is known to enter only where `base_names` lists it.
    Raises InputError for a name that no base has.
    """
    if name == ZERO:
        return Attempt(profile, Vmcs())
    if name not in GUEST_BASES:
        raise InputError(
            f"no base is named {show(name)}{nearest(name, ALL_BASES)}; "
            f"the bases are {', '.join(ALL_BASES)}"
        )
    return Attempt(
        profile=profile,
        vmcs=Vmcs(
            _POINTERS
            | _NUMBERS
            | _controls(name, profile)
            | _host(profile)
            | base_guests.guest(name, profile)
            | {f"guest_pdptr{index}": _pdpte(index) for index in range(4)}
            | {"guest_ia32_pat": _RESET_PAT, "ept_pointer": ept_pointer(profile)}
        ),
        processor=_processor(profile),
        memory=_memory(profile),
    )


def ept_pointer(profile: Profile) -> int:
    """Return an EPTP that `profile` accepts: write-back and four levels where it has them."""
    cap = profile.caps.ept_vpid_cap
    kind = MemoryType.UC if not cap & EptVpidCap.MEMORY_TYPE_WB else MemoryType.WB
    only_five = cap & EptVpidCap.PAGE_WALK_5 and not cap & EptVpidCap.PAGE_WALK_4
    levels = 5 if only_five else 4
    return places.EPT_PML4 | (levels - 1) << Eptp.PAGE_WALK_LENGTH.position | kind


def _controls(name: str, profile: Profile) -> dict[str, int]:
    caps = profile.caps
    primary, secondary = caps.primary_must, caps.secondary_must
    if name == "guest-real":
        primary |= Primary.ACTIVATE_SECONDARY_CONTROLS
        secondary |= Secondary.ENABLE_EPT | Secondary.UNRESTRICTED_GUEST
    host = VmExit.HOST_ADDRESS_SPACE_SIZE if has_long_mode(profile) else 0
    guest = VmEntry.IA_32E_MODE_GUEST if name == "guest-64" else 0
    return {
        "pin_based_vm_exec_control": caps.pin_must,
        "cpu_based_vm_exec_control": primary,
        "secondary_vm_exec_control": secondary,
        "vm_exit_controls": caps.exit_must | host,
        "vm_entry_controls": caps.entry_must | guest,
    }


def _host(profile: Profile) -> dict[str, int]:
    caps = profile.caps
    cr4 = Cr4.PAE if has_long_mode(profile) else 0
    return _HOST | {
        "host_cr0": (_CR0 | caps.cr0_fixed0) & caps.cr0_fixed1,
        "host_cr4": (cr4 | Cr4.VMXE | caps.cr4_fixed0) & caps.cr4_fixed1,
        "host_ia32_efer": base_guests.EFER_64 if has_long_mode(profile) else 0,
    }


def _processor(profile: Profile) -> Processor:
    host = _host(profile)
    return Processor(
        cr0=host["host_cr0"],
        cr3=places.HOST_PAGE_TABLE,
        cr4=host["host_cr4"],
        efer=host["host_ia32_efer"],
        cs_l=has_long_mode(profile),
        vmxon_pointer=places.VMXON_REGION,
        current_vmcs=places.CURRENT_VMCS,
    )


def _pdpte(index: int) -> int:
    return _PDPTE + 0x1000 * index


def _memory(profile: Profile) -> Memory:
    entries = (
        number.to_bytes(8, "little") + value.to_bytes(8, "little") for number, value in _MSR_LIST
    )
    pdptes = (_pdpte(index).to_bytes(8, "little") for index in range(4))
    return Memory.of(
        {
            places.MSR_LOAD_AREA: b"".join(entries),
            places.PDPTES: b"".join(pdptes),
            places.VTPR: bytes(4),
            places.LINKED_VMCS: profile.caps.revision.to_bytes(4, "little"),
            places.EPTP_LIST: ept_pointer(profile).to_bytes(8, "little"),
        }
    )
