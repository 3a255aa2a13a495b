# SPDX-License-Identifier: GPL-2.0-only
"""Which check of the model a trace event of the kernel is about.

A failed check is traced with its condition as the source spells it. That text is the kernel's; here
stands the start of its digest, beside the function it is in. Of 6.1 and 6.12. This is a table by
hand; which checks a built kernel has is read from its source, by
`nvmxfuzz.targets.kvm_native.checks_in_source`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_DIGITS = 8


def text_digest(text: str) -> str:
    """Return the first digits of the SHA-256 of a condition."""
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def check_names(function: str, text: str) -> tuple[str, ...]:
    """Return the checks that a traced condition of a function can mean, () for an unknown one.

    A condition that only repeats the verdict of a function means any check of it.
    """
    site = function, text_digest(text)
    return OUTER_SITES.get(site) or SITES.get(site, ())


_CHECKS: Final[dict[str, dict[str, str]]] = {
    "nested_vmx_check_io_bitmap_controls": {
        "67d0fd18": "execution.io-bitmap-a.address",
        "bac95baf": "execution.io-bitmap-b.address",
    },
    "nested_vmx_check_msr_bitmap_controls": {
        "1fde1f1f": "execution.msr-bitmap.address",
    },
    "nested_vmx_check_tpr_shadow_controls": {
        "d98b1547": "execution.virtual-apic.address",
    },
    "nested_vmx_check_apic_access_controls": {
        "db8ef4d7": "execution.apic-access.address",
    },
    "nested_vmx_check_apicv_controls": {
        "a4eee0c7": "execution.x2apic-mode.apic-accesses",
        "cf325064": "execution.virtual-interrupts.external",
        "1a04f016": "execution.posted-interrupts.delivery",
        "13784d36": "execution.posted-interrupts.acknowledge",
        "68984fd4": "execution.posted-interrupts.vector",
        "5e60216c": "execution.posted-interrupts.descriptor",
        "87180cfd": "execution.apic-virtualization.tpr-shadow",
    },
    "nested_vmx_check_exit_msr_switch_controls": {
        "59034deb": "exit.msr-load.area",
        "114330f7": "exit.msr-store.area",
    },
    "nested_vmx_check_entry_msr_switch_controls": {
        "153a7527": "entry.msr-load.area",
    },
    "nested_vmx_check_pml_controls": {
        "4cf0066b": "execution.pml.ept",
        "2599001c": "execution.pml.address",
    },
    "nested_vmx_check_unrestricted_guest_controls": {
        "faa6d63d": "execution.unrestricted-guest.ept",
    },
    "nested_vmx_check_mode_based_ept_exec_controls": {
        "02a19e71": "execution.mode-based-execute.ept",
    },
    "nested_vmx_check_shadow_vmcs_controls": {
        "cea07045": "execution.vmread-bitmap.address",
        "c6dea055": "execution.vmwrite-bitmap.address",
    },
    "nested_vmx_msr_check_common": {
        "58141978": "msr-list.x2apic.range",
        "8ee07250": "msr-list.microcode.write",
        "e48fcce1": "msr-list.microcode.revision",
        "f1dd52e3": "msr-list.entry.reserved",
    },
    "nested_vmx_load_msr_check": {
        "63e20b47": "msr-load.fs-base.forbidden",
        "a0559981": "msr-load.gs-base.forbidden",
        "9ef29175": "msr-load.smm-monitor-ctl.forbidden",
    },
    "nested_vmx_store_msr_check": {
        "a6957b06": "msr-store.smbase.forbidden",
    },
    "nested_vmx_load_cr3": {
        "16bdd564": "guest.cr3.width",
        "f2fecd69": "guest.pdptes.valid",
        "ccbfea53": "guest.cr3.width",
    },
    "prepare_vmcs02": {
        "ef30939a": "guest.segments.valid",
    },
    "nested_vmx_check_nmi_controls": {
        "3842e839": "execution.virtual-nmis.nmi-exiting",
        "1ac4182a": "execution.nmi-window.virtual-nmis",
    },
    "nested_vmx_check_eptp": {
        "ce93dad4": "execution.eptp.uncacheable",
        "6180d7dd": "execution.eptp.write-back",
        "eb294830": "execution.eptp.walk-of-5",
        "18251b64": "execution.eptp.walk-of-4",
        "102b345e": "execution.eptp.reserved",
        "18e944c0": "execution.eptp.accessed-dirty",
        "56034d02": "execution.eptp.reserved",
    },
    "nested_check_vm_execution_controls": {
        "88b1b6f8": "execution.pin-based.allowed",
        "68ce6c58": "execution.primary.allowed",
        "56ce013a": "execution.secondary.allowed",
        "a5db8b02": "execution.cr3-targets.count",
        "6403e972": "execution.vpid.zero",
        "309f3091": "execution.vm-functions.allowed",
        "4cf0066b": "execution.eptp-switching.ept",
        "f5d790b8": "execution.eptp-list.address",
    },
    "nested_check_vm_exit_controls": {
        "e41abb79": "exit.controls.allowed",
    },
    "nested_check_vm_entry_controls": {
        "87689426": "entry.controls.allowed",
        "90639ecf": "entry.event.type",
        "77545124": "entry.event.monitor-trap-flag",
        "a4a0bd15": "entry.event.nmi-vector",
        "f6f34f08": "entry.event.exception-vector",
        "b277578a": "entry.event.other-vector",
        "f2385045": "entry.event.error-code",
        "59b1afc0": "entry.event.error-code-value",
        "f7422de2": "entry.event.reserved",
        "51fe884c": "entry.event.instruction-length",
        "d8c77676": "entry.event.zero-length",
        "691c49f8": "entry.event.zero-length",
    },
    "nested_vmx_check_address_space_size": {
        "2a894c0d": "host.address-space.size",
    },
    "nested_vmx_check_host_state": {
        "4492574c": "host.cr0.fixed",
        "7cbe4880": "host.cr4.valid",
        "3293edde": "host.cr3.width",
        "3cd34b56": "host.sysenter-esp.canonical",
        "0d3aad9d": "host.sysenter-eip.canonical",
        "004711ba": "host.pat.types",
        "8bec60a4": "host.perf-global-ctrl.reserved",
        "9cf00b5c": "host.cr4.pae",
        "5021170a": "host.address-space.guest",
        "2ba56635": "host.cr4.pcide",
        "ac49f4ab": "host.rip.width",
        "428def11": "host.cs.selector",
        "adf45fbf": "host.ss.selector",
        "08dfed61": "host.ds.selector",
        "9209ceff": "host.es.selector",
        "0316eb6b": "host.fs.selector",
        "0a2fde2d": "host.gs.selector",
        "db0949c8": "host.tr.selector",
        "758437cd": "host.cs.null",
        "d3776a56": "host.tr.null",
        "1298da08": "host.ss.null",
        "53c86148": "host.fs.base",
        "e2eeb8b8": "host.gs.base",
        "719b542f": "host.gdtr.base",
        "e315bc8e": "host.idtr.base",
        "bc1a20f3": "host.tr.base",
        "6a1e1a8e": "host.rip.canonical",
        "230663b3": "host.efer.reserved",
        "1ef65376": "host.efer.lma",
        "b2a4b7f9": "host.efer.lme",
        "96d02796": "host.cr3.width",
        "ad806e7b": "host.cet.write-protect",
        "29340e94": "host.sysenter-esp.canonical",
        "2147d8f6": "host.sysenter-eip.canonical",
        "581fcd06": "host.fs.base",
        "405c3412": "host.gs.base",
        "01ad28db": "host.gdtr.base",
        "decfe380": "host.idtr.base",
        "2afbfe74": "host.tr.base",
        "1c80f49a": "host.rip.canonical",
    },
    "nested_vmx_check_vmcs_link_ptr": {
        "363401b0": "guest.link-pointer.address",
        "307c6b8b": "guest.link-pointer.memory",
        "e63821ad": "guest.link-pointer.read",
        "b1c9d03c": "guest.link-pointer.revision",
        "6cf3d718": "guest.link-pointer.shadow",
    },
    "nested_check_guest_non_reg_state": {
        "e655e78b": "guest.activity.supported",
    },
    "nested_vmx_check_guest_state": {
        "7777dc0e": "guest.cr0.fixed",
        "3ecefacc": "guest.cr4.valid",
        "2ece05c4": "guest.dr7.width",
        "6b7cf3f3": "guest.debugctl.supported",
        "6aacddc6": "guest.pat.types",
        "1d73ed60": "guest.perf-global-ctrl.reserved",
        "765255e9": "guest.cr0.paging",
        "b97512dc": "guest.ia-32e.pae",
        "78629c12": "guest.ia-32e.paging",
        "37186829": "guest.efer.reserved",
        "90b61985": "guest.efer.lma",
        "99c9c6dc": "guest.efer.lme",
        "789f52c6": "guest.bndcfgs.canonical",
        "0ef94db6": "guest.bndcfgs.reserved",
        "c61a38f3": "guest.cet.write-protect",
        "658207e0": "guest.debugctl.supported",
        "79767604": "guest.bndcfgs.canonical",
    },
    "nested_get_vmcs12_pages": {
        "a736ac06": "l1.pdptes.valid",
    },
    "nested_vmx_run": {
        "6a8fd74a": "evmcs.revision.known",
        "58225f25": "basic.vmcs.current",
        "fe5ceb19": "basic.vmcs.shadow",
        "25b385db": "basic.mov-ss.blocking",
        "376141aa": "basic.launch-state.instruction",
        "3a4975e3": "basic.vmcs.current",
    },
    "nested_vmx_check_vmentry_hw": {
        "fa117ce8": "hardware.early-check.vmfail",
    },
    "nested_vmx_reflect_vmexit": {
        "e762e41d": "hardware.entry.vmfail",
    },
    "nested_evmcs_check_controls": {
        "5502a1ce": "evmcs.pin-based.supported",
        "83e58666": "evmcs.secondary.supported",
        "ed069cd7": "evmcs.exit.supported",
        "5eb18f37": "evmcs.entry.supported",
        "cdee30bc": "evmcs.vm-functions.supported",
        "a3f33e9f": "evmcs.primary.supported",
    },
}

SITES: Final[Mapping[tuple[str, str], tuple[str, ...]]] = MappingProxyType(
    {
        (function, digest): (check,)
        for function, checks in _CHECKS.items()
        for digest, check in checks.items()
    }
)
"""(function, digest of the condition) -> the checks it can mean."""

OUTER_SITES: Final[Mapping[tuple[str, str], tuple[str, ...]]] = MappingProxyType(
    {
        ("nested_check_vm_execution_controls", "dfd5a67d"): (
            "execution.eptp.memory-type",
            "execution.eptp.walk-length",
            "execution.eptp.uncacheable",
            "execution.eptp.write-back",
            "execution.eptp.walk-of-5",
            "execution.eptp.walk-of-4",
            "execution.eptp.reserved",
            "execution.eptp.accessed-dirty",
        ),
        ("nested_check_vm_exit_controls", "b50fd1c0"): (
            "exit.msr-load.area",
            "exit.msr-store.area",
        ),
    }
)
"""Conditions that hold a call; what is traced in the function called comes before them."""
