# SPDX-License-Identifier: GPL-2.0-only
"""What Bochs' messages on VM entry say, in terms of the rules.

A message belongs to one or several rules: Bochs makes one check of what are several rules here. In
the name of a rule `{}` stands for what the message names: a segment register, an I/O bitmap.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from nvmxfuzz.arch.segments import SEGMENTS

if TYPE_CHECKING:
    from nvmxfuzz.targets.base import Message

_CONTROL: Final = "VMFAIL: VMCS EXEC CTRL: "
_EXIT: Final = "VMFAIL: VMCS VMEXIT CTRL: "
_ENTRY: Final = "VMFAIL: VMENTRY "
_HOST: Final = "VMFAIL: VMCS host "
_LINK: Final = "VMFAIL: VMCS link pointer "
_GUEST: Final = "VMENTER FAIL: VMCS guest "

UNABLE_TO_SET_UP: Final = "VMX LoadMSRs %d: unable to set up MSR %x"
"""WRMSR refused the MSR or its value; the line before, if there is one, says why."""

_CONTROLS: Final = {
    f"{_CONTROL}VMX pin-based controls allowed 0-settings": ("execution.pin-based.must-be-1",),
    f"{_CONTROL}VMX pin-based controls allowed 1-settings": ("execution.pin-based.may-be-1",),
    f"{_CONTROL}VMX proc-based controls allowed 0-settings": ("execution.primary.must-be-1",),
    f"{_CONTROL}VMX proc-based controls allowed 1-settings": ("execution.primary.may-be-1",),
    f"{_CONTROL}VMX secondary controls allowed 1-settings": ("execution.secondary.may-be-1",),
    f"{_CONTROL}VMX tertiary controls allowed 1-settings": ("execution.tertiary.may-be-1",),
    f"{_CONTROL}too may CR3 targets %d": ("execution.cr3-target.count",),
    f"{_CONTROL}I/O bitmap %c phy addr malformed": (
        "execution.io-bitmap-{}.aligned",
        "execution.io-bitmap-{}.width",
    ),
    f"{_CONTROL}MSR bitmap phy addr malformed": (
        "execution.msr-bitmap.aligned",
        "execution.msr-bitmap.width",
    ),
    f"{_CONTROL}misconfigured virtual NMI control": (
        "execution.virtual-nmis.nmi-exiting",
        "execution.nmi-window.virtual-nmis",
    ),
    f"{_CONTROL}VMREAD bitmap phy addr malformed": (
        "execution.vmread-bitmap.aligned",
        "execution.vmread-bitmap.width",
    ),
    f"{_CONTROL}VMWRITE bitmap phy addr malformed": (
        "execution.vmwrite-bitmap.aligned",
        "execution.vmwrite-bitmap.width",
    ),
    f"{_CONTROL}broken #VE information address": (
        "execution.virtualization-exception.aligned",
        "execution.virtualization-exception.width",
    ),
    f"{_CONTROL}virtual apic phy addr malformed": (
        "execution.virtual-apic.aligned",
        "execution.virtual-apic.width",
    ),
    f"{_CONTROL}virtual interrupt delivery must be set together with external interrupt exiting": (
        "execution.virtual-interrupts.external-interrupt-exiting",
    ),
    f"{_CONTROL}TPR threshold too big": ("execution.tpr-threshold.reserved",),
    f"{_CONTROL}TPR threshold > TPR shadow": ("execution.tpr-threshold.vtpr",),
    f"{_CONTROL}posted interrupts must be enabled together with virtual interrupt delivery": (
        "execution.posted-interrupts.delivery",
    ),
    f"{_CONTROL}posted interrupts notification vector %d must be 0-255": (
        "execution.posted-interrupts.vector",
    ),
    f"{_CONTROL}Posted Interrupt Descriptor phy addr malformed": (
        "execution.posted-interrupts.aligned",
        "execution.posted-interrupts.width",
    ),
    f"{_CONTROL}posted interrupts must be enabled together 'ack interrupt on exit'": (
        "execution.posted-interrupts.acknowledge",
    ),
    f"{_CONTROL}APIC virtualization is enabled without TPR shadow": (
        "execution.x2apic.tpr-shadow",
        "execution.apic-registers.tpr-shadow",
        "execution.virtual-interrupts.tpr-shadow",
    ),
    f"{_CONTROL}apic access page phy addr malformed": (
        "execution.apic-access.aligned",
        "execution.apic-access.width",
    ),
    f"{_CONTROL}virtualize X2APIC mode enabled together with APIC access virtualization": (
        "execution.x2apic.apic-accesses",
    ),
    f"{_CONTROL}invalid EPTPTR value": (
        "execution.eptp.memory-type",
        "execution.eptp.page-walk-length",
        "execution.eptp.accessed-dirty",
        "execution.eptp.supervisor-shadow-stack",
        "execution.eptp.reserved",
        "execution.eptp.width",
    ),
    f"{_CONTROL}unrestricted guest without EPT": ("execution.unrestricted-guest.ept",),
    f"{_CONTROL}MBE is enabled without EPT": ("execution.mode-based-execute.ept",),
    f"{_CONTROL}guest VPID == 0": ("execution.vpid.zero",),
    f"{_CONTROL}PML is enabled without EPT": ("execution.pml.ept",),
    f"{_CONTROL}PML base phy addr malformed": ("execution.pml.aligned", "execution.pml.width"),
    f"{_CONTROL}SPP is enabled without EPT": ("execution.sub-page.ept",),
    f"{_CONTROL}SPP base phy addr malformed": (
        "execution.sub-page.aligned",
        "execution.sub-page.width",
    ),
    f"{_CONTROL}TSC multiplier should be non zero": ("execution.tsc-multiplier.zero",),
    "VMFAIL: VMCS VM Functions control reserved bits set": ("execution.vm-functions.may-be-1",),
    "VMFAIL: VMFUNC EPTP-SWITCHING: EPT disabled": ("execution.eptp-switching.ept",),
    "VMFAIL: VMFUNC EPTP-SWITCHING: eptp list phy addr malformed": (
        "execution.eptp-list.aligned",
        "execution.eptp-list.width",
    ),
    f"{_CONTROL}VMX vmexit controls allowed 0-settings": ("exit.primary.must-be-1",),
    f"{_CONTROL}VMX vmexit controls allowed 1-settings": ("exit.primary.may-be-1",),
    f"{_CONTROL}VMX vmexit secondary controls allowed 1-settings": ("exit.secondary.may-be-1",),
    "VMFAIL: save_VMX_preemption_timer VMEXIT control is set "
    "but VMX_preemption_timer VMEXEC control is clear": ("exit.preemption-timer.save",),
    f"{_EXIT}msr store addr malformed": ("exit.msr-store.aligned", "exit.msr-store.width"),
    f"{_EXIT}msr store addr too high": ("exit.msr-store.end", "exit.msr-store.width"),
    f"{_EXIT}msr load addr malformed": ("exit.msr-load.aligned", "exit.msr-load.width"),
    f"{_EXIT}msr load addr too high": ("exit.msr-load.end", "exit.msr-load.width"),
    f"{_CONTROL}VMX vmentry controls allowed 0-settings": ("entry.controls.must-be-1",),
    f"{_CONTROL}VMX vmentry controls allowed 1-settings": ("entry.controls.may-be-1",),
    f"{_ENTRY}from outside SMM with dual-monitor treatment enabled": ("entry.smm.deactivate",),
    "VMFAIL: VMCS VMENTRY CTRL: msr load addr malformed": (
        "entry.msr-load.aligned",
        "entry.msr-load.width",
    ),
    "VMFAIL: VMCS VMENTRY CTRL: msr load addr too high": (
        "entry.msr-load.end",
        "entry.msr-load.width",
    ),
    f"{_ENTRY}broken interruption info field": (
        "entry.event.reserved",
        "entry.event.nested-supported",
    ),
    f"{_ENTRY}bad injected event vector %d": (
        "entry.event.nmi-vector",
        "entry.event.exception-vector",
    ),
    f"{_ENTRY}bad injected event instr length": (
        "entry.instruction-length.maximum",
        "entry.instruction-length.zero",
    ),
    f"{_ENTRY}bad MTF injection with vector=%d": ("entry.event.other-vector",),
    f"{_ENTRY}bad injected event type %d": ("entry.event.type", "entry.event.other-type"),
    f"{_ENTRY}injected event vector %d broken error code": (
        "entry.event.error-code-required",
        "entry.event.error-code-vector",
        "entry.event.error-code-type",
        "entry.event.error-code-real-mode",
    ),
    f"{_ENTRY}bad error code 0x%08x for injected event %d": ("entry.error-code.reserved",),
}

_HOST_STATE: Final = {
    "VMFAIL: VMCS x86-64 host control invalid on VMENTRY": (
        "space.host.in-ia-32e",
        "space.host.no-intel-64",
        "space.guest.no-intel-64",
    ),
    "VMFAIL: VMCS x86-64 guest(%d)/host(%d) controls invalid on VMENTRY": (
        "space.guest.outside-ia-32e",
        "space.host.outside-ia-32e",
        "space.guest.host-32",
    ),
    f"{_HOST}state invalid CR0 0x%08x": ("host.cr0.must-be-1", "host.cr0.must-be-0"),
    f"{_HOST}state invalid CR3": ("host.cr3.width", "host.cr3.lam"),
    f"{_HOST}state invalid CR4 0x%016lx": ("host.cr4.must-be-1", "host.cr4.must-be-0"),
    f"{_HOST}segreg %d TI/RPL != 0": ("host.{}.rpl", "host.{}.ti"),
    f"{_HOST}CS selector 0": ("host.cs.not-null",),
    f"{_HOST}SS selector 0": ("host.ss.not-null",),
    "VMFAIL: VMCS invalid host TR selector": ("host.tr.rpl", "host.tr.ti", "host.tr.not-null"),
    f"{_HOST}TR BASE non canonical": ("host.tr.base",),
    f"{_HOST}FS BASE non canonical": ("host.fs.base",),
    f"{_HOST}GS BASE non canonical": ("host.gs.base",),
    f"{_HOST}GDTR BASE non canonical": ("host.gdtr.base",),
    f"{_HOST}IDTR BASE non canonical": ("host.idtr.base",),
    f"{_HOST}SYSENTER_ESP_MSR non canonical": ("host.sysenter-esp.canonical",),
    f"{_HOST}SYSENTER_EIP_MSR non canonical": ("host.sysenter-eip.canonical",),
    "VMFAIL: invalid Memory Type in host MSR_PAT": ("host.pat.memory-types",),
    "VMFAIL: invalid value in host IA32_SPEC_CTRL_MSR": ("host.spec-ctrl.reserved",),
    f"{_HOST}EFER reserved bits set !": ("host.efer.reserved",),
    f"{_HOST}EFER (0x%08x) inconsistent value !": ("host.efer.lma", "host.efer.lme"),
    f"{_HOST}CR4.PAE=0 with x86-64 host": ("space.cr4.pae",),
    f"{_HOST}RIP non-canonical": ("space.rip.canonical",),
    f"{_HOST}RIP > 32 bit": ("space.rip.upper",),
    f"{_HOST}CR4.PCIDE set": ("space.cr4.pcide",),
}

_GUEST_STATE: Final = {
    "VMENTER FAIL: RFLAGS reserved bits are set": ("guest.rflags.reserved",),
    "VMENTER FAIL: RFLAGS[1] cleared": ("guest.rflags.fixed-1",),
    "VMENTER FAIL: Enter to x86-64 guest with RFLAGS.VM": ("guest.rflags.vm-ia-32e",),
    f"{_GUEST}invalid CR0": ("guest.cr0.must-be-1", "guest.cr0.must-be-0"),
    "VMENTER FAIL: VMCS unrestricted guest CR0.PG without CR0.PE": (
        "guest.cr0.pe",
        "guest.cr0.must-be-0",
    ),
    f"{_GUEST}invalid CR3": ("guest.cr3.width", "guest.cr3.lam"),
    f"{_GUEST}invalid CR4": ("guest.cr4.must-be-1", "guest.cr4.must-be-0"),
    f"{_GUEST}CR4.PAE=0 in x86-64 mode": ("guest.cr4.pae",),
    "VMENTER FAIL: VMCS CR4.PCIDE set in 32-bit guest": ("guest.cr4.pcide",),
    f"{_GUEST}invalid DR7": ("guest.dr7.upper",),
    "VMENTER FAIL: VMCS v8086 guest bad %s.BASE": ("guest.{}.v8086-base",),
    "VMENTER FAIL: VMCS v8086 guest %s.LIMIT != 0xFFFF": ("guest.{}.v8086-limit",),
    "VMENTER FAIL: VMCS v8086 guest %s.AR != 0xF3": ("guest.{}.v8086-access-rights",),
    f"{_GUEST}%s.BASE non canonical": ("guest.{}.base-canonical",),
    f"{_GUEST}%s.BASE > 32 bit": ("guest.{}.base-high",),
    f"{_GUEST}%s not segment": ("guest.{}.s",),
    f"{_GUEST}%s not present": ("guest.{}.p",),
    f"{_GUEST}%s.AR/LIMIT malformed": (
        "guest.{}.reserved-low",
        "guest.{}.reserved-high",
        "guest.{}.g-clear",
        "guest.{}.g-set",
    ),
    "VMENTER FAIL: VMCS unrestricted guest CS.DPL != 0": ("guest.cs.dpl-data",),
    f"{_GUEST}CS.TYPE": ("guest.cs.type", "guest.cs.type-unrestricted"),
    "VMENTER FAIL: VMCS x86_64 guest wrong CS.D_B/L": ("guest.cs.db",),
    f"{_GUEST}SS.TYPE": ("guest.ss.type",),
    f"{_GUEST}%s not ACCESSED": ("guest.{}.accessed",),
    f"{_GUEST}CODE segment %s not READABLE": ("guest.{}.readable",),
    f"{_GUEST}non-conforming %s.RPL < %s.DPL": ("guest.{}.dpl",),
    f"{_GUEST}non-conforming CS.DPL <> SS.DPL": ("guest.cs.dpl-non-conforming",),
    f"{_GUEST}non-conforming CS.DPL > SS.DPL": ("guest.cs.dpl-conforming",),
    f"{_GUEST}CS.RPL != SS.RPL": ("guest.ss.rpl",),
    f"{_GUEST}SS.RPL <> SS.DPL": ("guest.ss.dpl-rpl",),
    "VMENTER FAIL: VMCS unrestricted guest SS.DPL != 0": (
        "guest.ss.dpl-real-mode",
        "guest.ss.dpl-data-cs",
    ),
    f"{_GUEST}IDTR/IDTR.BASE non canonical": ("guest.gdtr.base", "guest.idtr.base"),
    f"{_GUEST}GDTR/IDTR limit > 0xFFFF": ("guest.gdtr.limit", "guest.idtr.limit"),
    f"{_GUEST}LDTR.TI set": ("guest.ldtr.ti",),
    f"{_GUEST}incorrect LDTR type (%d)": ("guest.ldtr.type",),
    f"{_GUEST}LDTR is not system segment": ("guest.ldtr.s",),
    f"{_GUEST}LDTR not present": ("guest.ldtr.p",),
    f"{_GUEST}LDTR.AR/LIMIT malformed": (
        "guest.ldtr.reserved-low",
        "guest.ldtr.reserved-high",
        "guest.ldtr.g-clear",
        "guest.ldtr.g-set",
    ),
    f"{_GUEST}LDTR.BASE non canonical": ("guest.ldtr.base-canonical",),
    f"{_GUEST}TR.BASE non canonical": ("guest.tr.base-canonical",),
    f"{_GUEST}TR invalid": ("guest.tr.usable",),
    f"{_GUEST}TR.TI set": ("guest.tr.ti",),
    f"{_GUEST}TR is not system segment": ("guest.tr.s",),
    f"{_GUEST}TR not present": ("guest.tr.p",),
    f"{_GUEST}TR.AR/LIMIT malformed": (
        "guest.tr.reserved-low",
        "guest.tr.reserved-high",
        "guest.tr.g-clear",
        "guest.tr.g-set",
    ),
    f"{_GUEST}incorrect TR type": ("guest.tr.type", "guest.tr.type-ia-32e"),
    f"{_GUEST}SYSENTER_ESP_MSR non canonical": ("guest.sysenter-esp.canonical",),
    f"{_GUEST}SYSENTER_EIP_MSR non canonical": ("guest.sysenter-eip.canonical",),
    "VMENTER FAIL: invalid Memory Type in guest MSR_PAT": ("guest.pat.memory-types",),
    "VMFAIL: invalid value in guest MSR_IA32_SPEC_CTRL": ("guest.spec-ctrl.reserved",),
    f"{_GUEST}EFER reserved bits set !": ("guest.efer.reserved",),
    f"{_GUEST}EFER.LMA doesn't match x86_64_guest !": ("guest.efer.lma",),
    f"{_GUEST}EFER (0x%08x) inconsistent value !": ("guest.efer.lme",),
    f"{_GUEST}RIP > 32 bit": ("guest.rip.high",),
    f"{_LINK}malformed": ("guest.link-pointer.aligned", "guest.link-pointer.width"),
    f"{_LINK}must indicate shadow VMCS revision ID = %d": (
        "guest.link-pointer.shadow",
        "guest.link-pointer.revision",
    ),
    f"{_LINK}incorrect revision ID %d != %d": (
        "guest.link-pointer.revision",
        "guest.link-pointer.shadow",
    ),
    f"{_LINK}equal to current VMCS pointer": ("guest.link-pointer.current",),
    f"{_LINK}equal to VMXON pointer": ("guest.link-pointer.executive",),
    f"{_GUEST}tmpDR6 reserved bits": (
        "guest.pending-debug.reserved",
        "guest.pending-debug.bus-lock",
        "guest.pending-debug.rtm-support",
    ),
    f"{_GUEST}activity state %d": ("guest.activity.value", "guest.activity.supported"),
    f"{_GUEST}HLT state with SS.DPL=%d": ("guest.activity.hlt-dpl",),
    f"{_GUEST}interruptibility state broken": (
        "guest.interruptibility.reserved",
        "guest.interruptibility.sti-and-mov-ss",
        "guest.interruptibility.enclave-sgx",
    ),
    f"{_GUEST}interruptibility state broken when entering non active CPU state %d": (
        "guest.activity.blocking",
    ),
    f"{_GUEST}interrupts can't be blocked by STI when EFLAGS.IF = 0": (
        "guest.interruptibility.sti-if",
    ),
    f"{_GUEST}interrupts blocked when injecting external interrupt": (
        "guest.interruptibility.interrupt-sti",
        "guest.interruptibility.interrupt-mov-ss",
        "guest.rflags.if",
    ),
    f"{_GUEST}interrupts blocked when injecting NMI": (
        "guest.interruptibility.nmi-mov-ss",
        "guest.interruptibility.nmi-sti",
    ),
    "VMENTER FAIL: No guest interruptions are allowed when entering Wait-For-Sipi state": (
        "guest.activity.wait-for-sipi-event",
    ),
    "VMENTER FAIL: Only NMI or #MC guest interruption is allowed when entering shutdown state": (
        "guest.activity.shutdown-event",
    ),
    "VMENTER FAIL: VMCS SMM guest should block SMI": ("guest.interruptibility.smi-entry-to-smm",),
    "VMENTER FAIL: The activity state must not indicate the wait-for-SIPI state "
    "if entering to SMM guest": ("guest.activity.wait-for-sipi-smm",),
    "VMENTER FAIL: VMCS SMI blocked when not in SMM mode": (
        "guest.interruptibility.smi-outside-smm",
    ),
    "VMENTER: EPT Guest State PDPTRs Checks Failed": tuple(
        f"pdpte.vmcs.entry-{number}" for number in range(4)
    ),
    "VMENTER: Guest State PDPTRs Checks Failed": tuple(
        f"pdpte.memory.entry-{number}" for number in range(4)
    ),
}

_INSTRUCTION: Final = {
    "%s: with CPL!=0 cause #GP(0)": ("basic.cpl.zero",),
    "VMFAIL: VMLAUNCH with invalid VMCS ptr !": ("basic.vmcs.current",),
    "VMFAIL: VMLAUNCH with interrupts blocked by MOV_SS !": ("basic.blocking.mov-ss",),
    "VMFAIL: VMLAUNCH with non-clear VMCS!": ("basic.launch-state.clear",),
    "VMFAIL: VMRESUME with non-launched VMCS!": ("basic.launch-state.launched",),
}

_EXISTS: Final = ("msr-load.slot.exists",)
"""What the rules say of MSRs that they do not know: neither whether they exist nor their bits."""
_NEW_VALUE: Final = ("msr-load.address.canonical",)
_MSR_LOADING: Final = {
    "VMX LoadMSRs %d: broken msr index 0x%lx": ("msr-load.slot.reserved",),
    "VMX LoadMSRs %d: unable to restore FSBASE or GSBASE": (
        "msr-load.slot.fs-base",
        "msr-load.slot.gs-base",
    ),
    "VMX LoadMSRs %d: unable to restore X2APIC range MSR %x": ("msr-load.slot.x2apic",),
    UNABLE_TO_SET_UP: (
        "msr-load.slot.exists",
        "msr-load.slot.smm-only",
        "msr-load.slot.read-only",
        "msr-load.slot.locked",
    ),
    "WRMSR: Unknown register %#x": (
        "msr-load.slot.exists",
        "msr-load.slot.smm-only",
        "msr-load.slot.read-only",
    ),
    "WRMSR: MTRRCAP is read only MSR": _EXISTS,
    "WRMSR: IA32_ARCH_CAPABILITIES is read only MSR": _EXISTS,
    "WRMSR: attempt to write invalid Memory Type to BX_MSR_MTRRPHYSBASE": _EXISTS,
    "WRMSR[0x%08x]: attempt to write invalid phy addr to variable range MTRR %08x:%08x": _EXISTS,
    "WRMSR[0x%08x]: variable range MTRR reserved bits violation %08x:%08x": _EXISTS,
    "WRMSR: attempt to write invalid Memory Type to MSR_MTRR_DEFTYPE": _EXISTS,
    "WRMSR: attempt to reserved bits in MSR_MTRR_DEFTYPE": _EXISTS,
    "WRMSR: attempt to write invalid Memory Type to MSR_MTRRFIX64K_00000 !": _EXISTS,
    "WRMSR: attempt to write invalid Memory Type to MSR_MTRRFIX16K register !": _EXISTS,
    "WRMSR: attempt to write invalid Memory Type to fixed memory range MTRR !": _EXISTS,
    "WRMSR: attempt to set reserved bits of IA32_PRED_CMD !": _EXISTS,
    "WRMSR: attempt to set reserved bits of IA32_FLUSH_CMD !": _EXISTS,
    "relocate_apic: attempt to set reserved bits": _EXISTS,
    "relocate_apic: attempt to set invalid apic state": _EXISTS,
    "relocate_apic: invalid physical address": _EXISTS,
    "WRMSR: VMX read only MSR": ("msr-load.slot.read-only",),
    "WRMSR: IA32_FEATURE_CONTROL_MSR VMX lock bit is set !": ("msr-load.slot.locked",),
    "WRMSR: attempt to write invalid Memory Type to MSR_PAT": ("msr-load.pat.memory-types",),
    "SetEFER(0x%08x): attempt to set reserved bits of EFER MSR !": ("msr-load.efer.reserved",),
    "SetEFER: attempt to change LME when CR0.PG=1": ("msr-load.efer.lme",),
    "WRMSR: attempt to write non-canonical value to MSR_SYSENTER_ESP !": _NEW_VALUE,
    "WRMSR: attempt to write non-canonical value to MSR_SYSENTER_EIP !": _NEW_VALUE,
    "WRMSR: attempt to write non-canonical value to MSR_LSTAR !": _NEW_VALUE,
    "WRMSR: attempt to write non-canonical value to MSR_CSTAR !": _NEW_VALUE,
    "WRMSR: attempt to write non-canonical value to MSR_KERNELGSBASE !": _NEW_VALUE,
    "WRMSR: attempt to set reserved/not supported bit in BX_MSR_XSS": ("msr-load.xss.reserved",),
    "WRMSR: attempt to set reserved bits of IA32_SPEC_CTRL: 0x%lx": (
        "msr-load.spec-ctrl.reserved",
    ),
}

RULES_OF: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {**_INSTRUCTION, **_CONTROLS, **_HOST_STATE, **_GUEST_STATE, **_MSR_LOADING}
)
"""The rules that a message says are broken, at least one of them, by its template."""

_NAMED: Final = re.compile(r"guest (\w\w)\b|segment (\w\w) |non-conforming (\w\w)\.|bad (\w\w)\.")
_SEGREG: Final = re.compile(r"segreg (\d)")
_BITMAP: Final = re.compile(r"bitmap (\w) ")


def rules_of(messages: Sequence[Message]) -> tuple[str, ...] | None:
    """Return the rules of which the messages of one attempt say that one is broken.

    The last message tells why the entry ended. None means that it is not known here, or that
    there is no message at all.
    """
    if not messages:
        return None
    last = messages[-1]
    if last.template == UNABLE_TO_SET_UP and len(messages) > 1:
        last = messages[-2]
    rules = RULES_OF.get(last.template)
    if rules is None:
        return None
    named = _named(last.text) if "{}" in rules[0] else ""
    return tuple(rule.format(named) for rule in rules)


def _named(text: str) -> str:
    """Return the segment register or the bitmap that a message names."""
    number = _SEGREG.search(text)
    if number:
        return SEGMENTS[int(number[1])]
    found = _BITMAP.search(text) or _NAMED.search(text)
    return next(filter(None, found.groups())).lower() if found else ""
