# SPDX-License-Identifier: GPL-2.0-only
"""Random VMCSs of an L1: one that KVM takes, and a few changes near what is checked of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Final, TypeAlias

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.arch.segments import SEGMENTS
from nvmxfuzz.machine.vmcs import Vmcs

ALL: Final = (1 << 64) - 1
WORD: Final = (1 << 32) - 1
PAT: Final = 0x0007_0406_0007_0406

LISTS: Final = {
    "vm_entry_msr_load": 0x2_0000,
    "vm_exit_msr_load": 0x2_1000,
    "vm_exit_msr_store": 0x2_2000,
}
"""Where the MSR lists of a case are."""
LINKED: Final = (0x1_0000, 0x1_1000, 0x1_2000, 0x1_3000)
"""Where VMCSs are that the link pointer may point to."""
PDPTES: Final = (0x1000, 0x1020, 0x2000, 0x3000, 0x7FE0)
"""Where PDPTEs are that a CR3 may point to."""

Fields: TypeAlias = dict[str, int]
Capabilities: TypeAlias = Mapping[int, int]
Edit: TypeAlias = Callable[[Random, Fields, Capabilities], None]

_ADDRESSES: Final = (
    *("io_bitmap_a", "io_bitmap_b", "msr_bitmap", "pml_address", "virtual_apic_page_addr"),
    *("apic_access_addr", "posted_intr_desc_addr", "eptp_list_address", "vmread_bitmap"),
    *("vmwrite_bitmap", "vmcs_link_pointer", "guest_cr3", "host_cr3"),
    *(f"{name}_addr" for name in LISTS),
)
_CANONICAL: Final = (
    *("host_fs_base", "host_gs_base", "host_gdtr_base", "host_idtr_base", "host_tr_base"),
    *("host_rip", "host_ia32_sysenter_esp", "host_ia32_sysenter_eip", "guest_bndcfgs"),
)
_HOST_SELECTORS: Final = tuple(f"host_{name}_selector" for name in SEGMENTS if name != "ldtr")
_CONTROLS: Final = (
    ("pin_based_vm_exec_control", msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS),
    ("cpu_based_vm_exec_control", msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS),
    ("secondary_vm_exec_control", msr.MSR_IA32_VMX_PROCBASED_CTLS2),
    ("vm_exit_controls", msr.MSR_IA32_VMX_TRUE_EXIT_CTLS),
    ("vm_entry_controls", msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS),
)
_ALLOWED: Final = dict(_CONTROLS)
_FIELDS: Final = tuple(FIELD_BY_NAME)
_HARMLESS: Final = (
    *("tsc_offset", "tsc_multiplier", "cr0_guest_host_mask", "cr4_guest_host_mask"),
    *("cr0_read_shadow", "cr4_read_shadow", "exception_bitmap", "page_fault_error_code_mask"),
    *("page_fault_error_code_match", "eoi_exit_bitmap0", "xss_exit_bitmap", "guest_dr7"),
    *("guest_intr_status", "tpr_threshold", "guest_pending_dbg_exceptions"),
    *("guest_interruptibility_info", "encls_exiting_bitmap", "guest_bndcfgs", "guest_rflags"),
)
"""Fields that no check is about, or hardly any: what counts is where their value goes."""
_LONG: Final = 0x500


def _width(name: str) -> int:
    return FIELD_BY_NAME[name].width


def _start() -> Fields:
    fields = dict.fromkeys(_FIELDS, 0)
    for name in SEGMENTS:
        fields[f"guest_{name}_limit"] = WORD
        fields[f"guest_{name}_ar_bytes"] = 0xC093
    fields |= {
        "guest_cs_ar_bytes": 0xA09B,
        "guest_cs_selector": 8,
        "guest_tr_ar_bytes": 0x8B,
        "guest_tr_limit": 0x67,
        "guest_tr_selector": 0x18,
        "guest_ldtr_ar_bytes": 0x1_0000,
        "guest_cr0": 0x8000_0031,
        "guest_cr3": 0x1000,
        "guest_cr4": 0x2020,
        "guest_rflags": 2,
        "guest_dr7": 0x400,
        "guest_ia32_efer": _LONG,
        "guest_ia32_pat": PAT,
        "host_cr0": 0x8000_0031,
        "host_cr3": 0x1000,
        "host_cr4": 0x2020,
        "host_cs_selector": 8,
        "host_tr_selector": 0x18,
        "host_ia32_efer": _LONG,
        "host_ia32_pat": PAT,
        "host_rsp": 0x7800,
        "vmcs_link_pointer": ALL,
        "vm_exit_controls": int(VmExit.HOST_ADDRESS_SPACE_SIZE),
        "vm_entry_controls": int(VmEntry.IA_32E_MODE_GUEST),
        "tsc_multiplier": 1 << 48,
        "ept_pointer": 0x8000 | 6 | 3 << 3,
        "posted_intr_nv": 0xF2,
        "virtual_processor_id": 1,
    }
    for name in _ADDRESSES:
        if name not in ("vmcs_link_pointer", "guest_cr3", "host_cr3"):
            fields[name] = LISTS["vm_entry_msr_load"]
    return fields


_START: Final = _start()


def random_vmcs(source: Random, capabilities: Capabilities, long_mode: bool) -> Vmcs:
    """Return a VMCS for an L1 with these capability MSRs, that runs in long mode or does not."""
    fields = dict(_START)
    for name, index in _CONTROLS:
        fields[name] |= capabilities.get(index, 0) & WORD & capabilities.get(index, 0) >> 32
    _choose_features(source, fields, capabilities)
    for _ in range(source.choice((0, 0, 0, 0, 1, 1, 2, 3, 5))):
        edit = source.choices(_EDITS, _WEIGHTS)[0]
        edit(source, fields, capabilities)
    _choose_state(source, fields, capabilities)
    if not long_mode and source.random() < 0.9:
        _leave_long_mode(source, fields)
    return Vmcs(fields)


# ---------------------------------------------------------------------- what L1 wants


def _has(capabilities: Capabilities, name: str, control: int) -> bool:
    return capabilities.get(_ALLOWED[name], 0) >> 32 & control != 0


def _choose_features(source: Random, fields: Fields, capabilities: Capabilities) -> None:
    secondary = capabilities.get(msr.MSR_IA32_VMX_PROCBASED_CTLS2, 0) >> 32
    if source.random() < 0.5:
        wanted = source.choice((0x2, 0x82, 0x22, 0x1, 0x301))
        fields["secondary_vm_exec_control"] |= wanted & secondary
        fields["cpu_based_vm_exec_control"] |= source.choice((0, 1)) << 31
    if source.random() < 0.12:
        _enter_32_bits(fields)
    if source.random() < 0.06:
        _enter_32_bits(fields)
        fields["vm_exit_controls"] &= ~VmExit.HOST_ADDRESS_SPACE_SIZE
        fields["host_ia32_efer"] = 0
    if _has(capabilities, "pin_based_vm_exec_control", Pin.PROCESS_POSTED_INTERRUPTS):
        _choose_posted_interrupts(source, fields, secondary)
    if secondary & Secondary.ENABLE_VM_FUNCTIONS and source.random() < 0.05:
        fields["cpu_based_vm_exec_control"] |= Primary.ACTIVATE_SECONDARY_CONTROLS
        fields["secondary_vm_exec_control"] |= Secondary.ENABLE_VM_FUNCTIONS | Secondary.ENABLE_EPT
        fields["vm_function_control"] = source.choice((0, 1, 1 << 31, 1 << 32))
        fields["eptp_list_address"] = source.choice((0x2_0000, 0x2_0001, 1 << 50))


def _choose_posted_interrupts(source: Random, fields: Fields, secondary: int) -> None:
    if source.random() > 0.3:
        return
    fields["pin_based_vm_exec_control"] |= 0x81
    fields["cpu_based_vm_exec_control"] |= 1 << 31 | Primary.USE_TPR_SHADOW
    fields["secondary_vm_exec_control"] |= source.choice((0x200, 0x200, 0x300, 0x210)) & secondary
    fields["vm_exit_controls"] |= VmExit.ACKNOWLEDGE_INTERRUPT_ON_EXIT
    if source.random() < 0.4:
        place = source.choice((0x3_0040, 0x3_0041, 0x50_0000, 0x3F_FFC0))
        fields["posted_intr_desc_addr"] = place
    if source.random() < 0.2:
        fields["pin_based_vm_exec_control"] ^= 1
    if source.random() < 0.2:
        fields["vm_exit_controls"] ^= VmExit.ACKNOWLEDGE_INTERRUPT_ON_EXIT


def _enter_32_bits(fields: Fields) -> None:
    fields["vm_entry_controls"] &= ~VmEntry.IA_32E_MODE_GUEST
    fields["guest_ia32_efer"] = 0
    fields["guest_cs_ar_bytes"] = 0xC09B


def _leave_long_mode(source: Random, fields: Fields) -> None:
    fields["vm_exit_controls"] &= ~VmExit.HOST_ADDRESS_SPACE_SIZE
    fields["vm_entry_controls"] &= ~VmEntry.IA_32E_MODE_GUEST
    if fields["guest_cs_ar_bytes"] == 0xA09B:
        fields["guest_cs_ar_bytes"] = 0xC09B
    fields["host_ia32_efer"] &= ~_LONG
    fields["host_cr3"] = source.choice((0x1000, 0x2000, 0x3000))
    if source.random() < 0.5:
        fields["host_cr4"] &= ~0x20


# ---------------------------------------------------------------------- changes near checks


def _address(source: Random) -> int:
    kind = source.random()
    page = source.randrange(0x400) << 12
    if kind < 0.5:
        return page
    if kind < 0.6:
        return source.randrange(0x10_0000) << 12
    if kind < 0.75:
        return page + source.choice((8, 16, 64, 0xFE0, 0xFF0, 1))
    if kind < 0.9:
        return 1 << source.randrange(64)
    return ALL if kind < 0.95 else source.getrandbits(64)


def canonical(source: Random) -> int:
    """Return an address near the border of what is canonical, on either side."""
    bit = source.choice((46, 47, 48, 55, 56, 57, 63))
    low = (1 << bit) - 1
    value = source.choice((1 << bit, ALL ^ low, low, ALL ^ (1 << bit)))
    return value ^ (0 if source.random() < 0.7 else source.getrandbits(12))


def _control(source: Random, fields: Fields, capabilities: Capabilities) -> None:
    name, index = source.choice((*_CONTROLS, _CONTROLS[2]))
    must, may = capabilities.get(index, 0) & WORD, capabilities.get(index, 0) >> 32
    kind = source.random()
    free = [bit for bit in range(32) if may >> bit & 1 and not must >> bit & 1]
    if kind < 0.5 and free:
        for _ in range(source.choice((1, 1, 2, 3, 5))):
            fields[name] ^= 1 << source.choice(free)
    elif kind < 0.8:
        fields[name] = source.getrandbits(32) & may | must
    else:
        fields[name] ^= 1 << source.randrange(32)


def _any_address(source: Random, fields: Fields, _: Capabilities) -> None:
    fields[source.choice(_ADDRESSES)] = _address(source)


def _any_canonical(source: Random, fields: Fields, _: Capabilities) -> None:
    fields[source.choice(_CANONICAL)] = canonical(source)


def _ept_pointer(source: Random, fields: Fields, _: Capabilities) -> None:
    reserved = source.randrange(32) << 7 if source.random() < 0.1 else 0
    walk = source.choice((3, 3, 3, 4, 2, 7)) << 3
    memory_type = source.choice((0, 6, 6, 6, 1, 4))
    dirty = source.randrange(2) << 6
    fields["ept_pointer"] = memory_type | walk | dirty | reserved | _address(source) & ~0xFFF


def _event(source: Random, fields: Fields, _: Capabilities) -> None:
    kind = source.choice((0, 1, 2, 3, 3, 3, 4, 5, 6, 7))
    vectors = (0, 1, 2, 2, 3, 6, 8, 10, 12, 13, 14, 17, 18, 20, 21, 29, 30, 31, 32, 255)
    vector = source.choice(vectors)
    event = 1 << 31 | kind << 8 | vector
    has_code = kind == 3 and vector in (8, 10, 11, 12, 13, 14, 17)
    if source.random() < (0.8 if has_code else 0.1):
        event |= 1 << 11
    if source.random() < 0.06:
        event |= 1 << source.randrange(12, 31)
    fields["vm_entry_intr_info_field"] = event
    codes = (0, 1, 0xFFFF, 0x1_0000, 0x8000_0000, 1 << 15)
    fields["vm_entry_exception_error_code"] = source.choice(codes)
    fields["vm_entry_instruction_len"] = source.choice((0, 1, 2, 15, 16, 255, 1 << 31))


def _control_register(source: Random, fields: Fields, _: Capabilities) -> None:
    name = source.choice(("guest_cr0", "guest_cr4", "host_cr0", "host_cr4"))
    fields[name] ^= 1 << source.randrange(33 if source.random() < 0.9 else 64)


def _efer(source: Random, fields: Fields, _: Capabilities) -> None:
    value = sum(1 << bit for bit in (0, 8, 10, 11) if source.random() < 0.5)
    if source.random() < 0.1:
        value ^= 1 << source.randrange(64)
    fields[source.choice(("guest_ia32_efer", "host_ia32_efer"))] = value


def random_pat(source: Random) -> int:
    """Return a PAT that is legal, or nearly."""
    kinds = (0, 1, 4, 5, 6, 7, 6, 6, 2, 3, 8) if source.random() < 0.3 else (0, 1, 4, 5, 6, 7)
    return sum(source.choice(kinds) << 8 * number for number in range(8))


def _pat(source: Random, fields: Fields, _: Capabilities) -> None:
    fields[source.choice(("guest_ia32_pat", "host_ia32_pat"))] = random_pat(source)


def _perf_global_ctrl(source: Random, fields: Fields, _: Capabilities) -> None:
    name = source.choice(("guest_ia32_perf_global_ctrl", "host_ia32_perf_global_ctrl"))
    fields[name] = source.choice((0, 1, 3, 0xFF, 7 << 32, 1 << source.randrange(64)))


def _debug(source: Random, fields: Fields, _: Capabilities) -> None:
    fields["guest_ia32_debugctl"] = 1 << source.randrange(17)
    fields["guest_dr7"] = source.choice((0x400, 1 << source.randrange(64)))


def _list_count(source: Random, fields: Fields, _: Capabilities) -> None:
    name = source.choice(tuple(LISTS))
    # Beyond some thousand entries KVM only reads on.
    longest = source.choice((0, 0, 1, 2, 3, 600, 1 << 16))
    fields[f"{name}_count"] = source.randrange(longest + 1)


def _link_pointer(source: Random, fields: Fields, _: Capabilities) -> None:
    fields["vmcs_link_pointer"] = source.choice((*LINKED, ALL))


def _activity(source: Random, fields: Fields, _: Capabilities) -> None:
    fields["guest_activity_state"] = source.choice((0, 1, 2, 3, 4, source.getrandbits(32)))


def _host_selector(source: Random, fields: Fields, _: Capabilities) -> None:
    values = (0, 0, 8, 16, 4, 3, source.getrandbits(16))
    fields[source.choice(_HOST_SELECTORS)] = source.choice(values)


def _small_fields(source: Random, fields: Fields, _: Capabilities) -> None:
    counts = (0, 1, 4, 5, 256, 257, source.getrandbits(32))
    values = {
        "cr3_target_count": counts,
        "vm_function_control": (0, 1, 1, 2, 1 << 31, 1 << 32, source.getrandbits(64)),
        "posted_intr_nv": (0, 0xF2, 0x100, source.getrandbits(16)),
        "virtual_processor_id": (0, 1, source.getrandbits(16)),
    }
    name = source.choice(tuple(values))
    fields[name] = source.choice(values[name])


def _segment(source: Random, fields: Fields, _: Capabilities) -> None:
    part = source.choice(("selector", "ar_bytes", "limit", "base"))
    name = f"guest_{source.choice(SEGMENTS)}_{part}"
    fields[name] = (fields[name] ^ 1 << source.randrange(17)) & (1 << _width(name)) - 1


def _any_field(source: Random, fields: Fields, _: Capabilities) -> None:
    name = source.choice(_FIELDS)
    width = _width(name)
    flipped = fields[name] ^ 1 << source.randrange(width)
    fields[name] = source.choice((flipped, source.getrandbits(width)))
    if name.endswith("_count"):
        fields[name] &= 0xFFFF


_WEIGHED: Final[tuple[tuple[Edit, int], ...]] = (
    (_control, 30),
    (_any_address, 12),
    (_any_canonical, 8),
    (_ept_pointer, 6),
    (_event, 10),
    (_control_register, 4),
    (_efer, 3),
    (_pat, 3),
    (_perf_global_ctrl, 3),
    (_debug, 2),
    (_list_count, 3),
    (_link_pointer, 2),
    (_activity, 2),
    (_host_selector, 2),
    (_small_fields, 5),
    (_segment, 3),
    (_any_field, 3),
)
_EDITS: Final = tuple(edit for edit, _ in _WEIGHED)
_WEIGHTS: Final = tuple(weight for _, weight in _WEIGHED)


# ---------------------------------------------------------------------- what L2 starts with


def _choose_state(source: Random, fields: Fields, capabilities: Capabilities) -> None:
    """Change what matters once the checks are passed."""
    if source.random() < 0.5:
        for name, place in LISTS.items():
            if source.random() < 0.4:
                fields[f"{name}_count"] = source.choice((1, 1, 2, 3, 6))
                fields[f"{name}_addr"] = place + source.choice((0, 0, 16))
    if source.random() < 0.1:
        places = (*PDPTES, 0x50_0000, 1 << 45, 1 << 46, 0x1018)
        fields["guest_cr3"] = source.choice(places)
    for chance, change in _GUESTS:
        if source.random() < chance:
            change(source, fields)
    if source.random() < 0.05 and _has(
        capabilities, "secondary_vm_exec_control", Secondary.UNRESTRICTED_GUEST
    ):
        _real_mode(fields)
    if source.random() < 0.2:
        part = source.choice(("selector", "ar_bytes"))
        name = f"guest_{source.choice(SEGMENTS)}_{part}"
        fields[name] = (fields[name] ^ 1 << source.randrange(17)) & (1 << _width(name)) - 1
    if source.random() < 0.3:
        for name in source.sample(_HARMLESS, 3):
            fields[name] = source.getrandbits(22 if name == "guest_rflags" else _width(name))
    _choose_loads(source, fields, capabilities)


def _pae(source: Random, fields: Fields) -> None:
    _enter_32_bits(fields)
    fields["vm_entry_controls"] &= ~VmEntry.LOAD_IA32_EFER
    fields["guest_cr3"] = source.choice((0x1000, 0x2000, 0x3000))
    fields["guest_cr4"] = 0x2020
    fields["guest_pdptr0"] = source.choice((0, 0x1001, source.getrandbits(64)))


def _without_pae(_: Random, fields: Fields) -> None:
    _enter_32_bits(fields)
    fields["vm_entry_controls"] &= ~VmEntry.LOAD_IA32_EFER
    fields["guest_cr4"] = 0x2000


def _virtual_8086(source: Random, fields: Fields) -> None:
    fields["guest_rflags"] = 0x2_0002 | source.choice((0, 0x3000))
    fields["vm_entry_controls"] &= ~VmEntry.IA_32E_MODE_GUEST
    for name in ("es", "cs", "ss", "ds", "fs", "gs"):
        fields[f"guest_{name}_selector"] = 0x1000
        fields[f"guest_{name}_base"] = 0x1_0000
        fields[f"guest_{name}_limit"] = 0xFFFF
        fields[f"guest_{name}_ar_bytes"] = 0xF3
    if source.random() < 0.5:
        part = source.choice(("selector", "base", "limit", "ar_bytes"))
        fields[f"guest_{source.choice(SEGMENTS[:6])}_{part}"] ^= 1 << source.randrange(16)


_GUESTS: Final = ((0.1, _pae), (0.05, _without_pae), (0.08, _virtual_8086))


def _real_mode(fields: Fields) -> None:
    fields["cpu_based_vm_exec_control"] |= Primary.ACTIVATE_SECONDARY_CONTROLS
    fields["secondary_vm_exec_control"] |= Secondary.ENABLE_EPT | Secondary.UNRESTRICTED_GUEST
    fields["vm_entry_controls"] &= ~VmEntry.IA_32E_MODE_GUEST
    fields["guest_cr0"], fields["guest_cr4"] = 0x30, 0x2000


def _choose_loads(source: Random, fields: Fields, capabilities: Capabilities) -> None:
    for name, efer, size, bits in (
        ("vm_exit_controls", "host_ia32_efer", 0x200, (1 << 21, 1 << 19, 1 << 2, 1 << 12)),
        ("vm_entry_controls", "guest_ia32_efer", 0x200, (1 << 15, 1 << 14, 1 << 2, 1 << 13)),
    ):
        if source.random() < 0.5:
            control = source.choice(bits)
            if _has(capabilities, name, control):
                fields[name] |= control
            loads = fields[name] & (VmExit.LOAD_IA32_EFER if "exit" in name else 1 << 15)
            if loads and source.random() < 0.9:
                mode = _LONG if fields[name] & size else 0
                fields[efer] = mode | source.choice((0, 1, 0x800))
