# SPDX-License-Identifier: GPL-2.0-only
"""Where the value of each field of vmcs02 comes from, as prepare_vmcs02() makes it.

A field that is in no table is L0's own: whatever L1 writes into vmcs12, hardware never sees it. The
tables say what may have a say; vmcs02.py says how. The VM-entry MSR-load list, which is memory, can
besides change what is listed under `MSR_LIST_FIELDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from nvmxfuzz.arch.controls import Primary, Secondary, VmEntry
from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.kvm.check_values import nested_cpu_has2
from nvmxfuzz.kvm.vmcs02_fields import (
    EOI_FIELDS,
    EVENT_FIELDS,
    PAGE_FAULT_FIELDS,
    PDPTR_FIELDS,
    SEGMENT_FIELDS,
    SYSENTER_FIELDS,
)
from nvmxfuzz.kvm.vmx_registers import CET_FIELDS
from nvmxfuzz.machine.vmcs import Vmcs


class Route(Enum):
    """How a value of vmcs12 gets into vmcs02."""

    COPIED = "as it is"
    CONDITIONAL = "as it is, or not at all"
    TRANSLATED = "the host-physical address of what it points to, or a substitute"
    MERGED = "made of L1's and L0's"
    L0 = "not at all"


@dataclass(frozen=True, slots=True)
class Origin:
    """The route of a field of vmcs02, and the fields of vmcs12 that can change its value."""

    route: Route
    sources: tuple[str, ...] = ()


_PRIMARY = "cpu_based_vm_exec_control"
_SECONDARY = "secondary_vm_exec_control"
_ENTRY = "vm_entry_controls"
_CONTROLS = (_PRIMARY, _SECONDARY)
_EFER = (_ENTRY, "guest_ia32_efer", "guest_cr0")

_COPIED = (
    *(name for name in (*SEGMENT_FIELDS, *SYSENTER_FIELDS) if name != "guest_tr_ar_bytes"),
    *EVENT_FIELDS,
    "guest_rflags",
    "guest_rsp",
    "guest_rip",
)

_CONDITIONAL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(EOI_FIELDS, ()),
        **dict.fromkeys(PAGE_FAULT_FIELDS, ()),
        **dict.fromkeys(CET_FIELDS, (_ENTRY,)),
        "guest_bndcfgs": (_ENTRY,),
        "guest_cr3": (),
        "guest_dr7": (_ENTRY,),
        "guest_ia32_pat": (_ENTRY,),
        "guest_intr_status": _CONTROLS,
        "tpr_threshold": (_PRIMARY,),
        "xss_exit_bitmap": _CONTROLS,
    }
)
"""Field of the same name in both -> the controls of vmcs12 that decide; else L0 decides."""

_TRANSLATED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "apic_access_addr": _CONTROLS,
        "posted_intr_desc_addr": ("pin_based_vm_exec_control",),
        "virtual_apic_page_addr": _CONTROLS,
    }
)

_MERGED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "pin_based_vm_exec_control": ("pin_based_vm_exec_control", "posted_intr_desc_addr"),
        "cpu_based_vm_exec_control": (
            *_CONTROLS,
            "guest_cr0",
            "msr_bitmap",
            "virtual_apic_page_addr",
        ),
        "secondary_vm_exec_control": (*_CONTROLS, "apic_access_addr", "guest_cr4"),
        "vm_exit_controls": _EFER,
        "vm_entry_controls": _EFER,
        "vm_exit_msr_load_count": _EFER,
        "vm_entry_msr_load_count": _EFER,
        "vm_exit_msr_store_count": ("vm_exit_msr_store_addr", "vm_exit_msr_store_count"),
        "guest_ia32_efer": _EFER,
        "exception_bitmap": ("exception_bitmap",),
        "encls_exiting_bitmap": (*_CONTROLS, "encls_exiting_bitmap"),
        "virtual_processor_id": _CONTROLS,
        "tsc_offset": (*_CONTROLS, "tsc_offset", "tsc_multiplier"),
        "tsc_multiplier": (*_CONTROLS, "tsc_multiplier"),
        "ept_pointer": ("ept_pointer",),
        "cr0_guest_host_mask": ("cr0_guest_host_mask",),
        "cr4_guest_host_mask": ("cr4_guest_host_mask",),
        "cr0_read_shadow": ("cr0_read_shadow", "cr0_guest_host_mask", "guest_cr0"),
        "cr4_read_shadow": ("cr4_read_shadow", "cr4_guest_host_mask", "guest_cr4"),
        "guest_cr0": ("guest_cr0",),
        "guest_cr4": ("guest_cr0", "guest_cr4"),
        "guest_ia32_debugctl": ("guest_ia32_debugctl", _ENTRY),
        "guest_tr_ar_bytes": ("guest_tr_ar_bytes", "guest_cr0"),
        **dict.fromkeys(PDPTR_FIELDS, (*_CONTROLS, *_EFER, "guest_cr3", "guest_cr4")),
    }
)


def _routes() -> dict[str, Origin]:
    routes = {field.name: Origin(Route.L0) for field in FIELDS}
    for name in _COPIED:
        routes[name] = Origin(Route.COPIED, (name,))
    for route, table in (
        (Route.CONDITIONAL, _CONDITIONAL),
        (Route.TRANSLATED, _TRANSLATED),
    ):
        for name, sources in table.items():
            routes[name] = Origin(route, (name, *sources))
    for name, sources in _MERGED.items():
        own = (name,) if name in PDPTR_FIELDS else ()
        routes[name] = Origin(Route.MERGED, (*own, *sources))
    return routes


ROUTES: Final[Mapping[str, Origin]] = MappingProxyType(_routes())
"""Every field of a VMCS -> where vmcs02 has its value from."""

L0_OWNED: Final = frozenset(name for name, origin in ROUTES.items() if origin.route is Route.L0)
"""Fields of vmcs02 that L1 has no say in: a fault of hardware's there is a fault of L0's."""

NEVER_SEEN: Final = frozenset(ROUTES) - {
    source for origin in ROUTES.values() for source in origin.sources
}
"""Fields of vmcs12 that change nothing in vmcs02: KVM alone judges them and acts on them."""

NEVER_REACHES: Final = frozenset(
    name for name, origin in ROUTES.items() if name not in origin.sources
)
"""Fields of vmcs12 whose own value never gets into vmcs02: these, and where KVM reads."""

MSR_LIST_FIELDS: Final = frozenset(
    {
        "guest_ia32_pat",
        "guest_ia32_efer",
        "guest_ia32_debugctl",
        "guest_sysenter_cs",
        "guest_sysenter_esp",
        "guest_sysenter_eip",
        "guest_bndcfgs",
        "tsc_offset",
        "vm_entry_controls",
        "vm_exit_controls",
        "vm_entry_msr_load_count",
        "vm_exit_msr_load_count",
    }
)
"""Fields of vmcs02 that the VM-entry MSR-load list of vmcs12 can change."""


DECIDED_BY: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        **dict.fromkeys(CET_FIELDS, (_ENTRY, int(VmEntry.LOAD_CET_STATE))),
        "guest_bndcfgs": (_ENTRY, int(VmEntry.LOAD_IA32_BNDCFGS)),
        "guest_dr7": (_ENTRY, int(VmEntry.LOAD_DEBUG_CONTROLS)),
        "guest_ia32_pat": (_ENTRY, int(VmEntry.LOAD_IA32_PAT)),
        "guest_intr_status": (_SECONDARY, int(Secondary.VIRTUAL_INTERRUPT_DELIVERY)),
        "tpr_threshold": (_PRIMARY, int(Primary.USE_TPR_SHADOW)),
        "xss_exit_bitmap": (_SECONDARY, int(Secondary.ENABLE_XSAVES_XRSTORS)),
    }
)
"""Conditional field -> the control of vmcs12 without which it does not reach vmcs02."""


def reaches(name: str, vmcs12: Vmcs) -> bool:
    """Tell whether the value of a field of this vmcs12 gets into vmcs02, if only in part."""
    if name in NEVER_REACHES:
        return False
    if name not in DECIDED_BY:
        return True
    word, control = DECIDED_BY[name]
    if word == _SECONDARY:
        return nested_cpu_has2(vmcs12, control)
    value: int = vmcs12.__dict__[word]
    return value & control != 0
