# SPDX-License-Identifier: GPL-2.0-only
"""Reads what dump_vmcs() of KVM prints, of kernels from 5.0 on.

Until 5.12 IA32_EFER and IA32_PAT share a line, and so do the pin-based and the processor-based
controls until 6.0. Lines that one printk() continues may stand apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.arch.segments import SEGMENTS
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.dumps.dump import Dump, Dumps
from nvmxfuzz.inputs.dumps.lines import Line
from nvmxfuzz.inputs.dumps.template import Template, is_fact, template

_PARTS: Final = {
    "*** Guest State ***": "guest",
    "*** Host State ***": "host",
    "*** Control State ***": "control",
}
_FIRST: Final = re.compile(r"VMCS \S+, last attempted VM-entry on CPU (\d+)")
_MSR_LIST: Final = re.compile(r"MSR (guest autoload|guest autostore|host autoload):")
_MSR: Final = template("<.slot:1>: msr=<.index:8> value=<.value:16>")
_GUEST_LOAD: Final = "guest autoload"
_MOST_MSRS: Final = 512
_UNEQUAL: Final = frozenset("*VM")
"""How the lines begin that have no =: other lines of a log need no look then."""

_CACHE: Final = (
    "sel=<guest_{0}_selector>, attr=<guest_{0}_ar_bytes:5>, "
    "limit=<guest_{0}_limit>, base=<guest_{0}_base>"
)
_SEGMENT_LINES: Final = tuple(f"{name.upper()}: {_CACHE.format(name)}" for name in SEGMENTS)

_LINES: Final[Mapping[str, tuple[Template, ...]]] = {
    part: tuple(map(template, texts))
    for part, texts in {
        "guest": (
            "CR0: actual=<guest_cr0>, shadow=<cr0_read_shadow>, gh_mask=<cr0_guest_host_mask>",
            "CR4: actual=<guest_cr4>, shadow=<cr4_read_shadow>, gh_mask=<cr4_guest_host_mask>",
            "CR3 = <guest_cr3>",
            "PDPTR0 = <guest_pdptr0> PDPTR1 = <guest_pdptr1>",
            "PDPTR2 = <guest_pdptr2> PDPTR3 = <guest_pdptr3>",
            "RSP = <guest_rsp> RIP = <guest_rip>",
            "RFLAGS=<guest_rflags:8> DR7 = <guest_dr7>",
            "Sysenter RSP=<guest_sysenter_esp> CS:RIP=<guest_sysenter_cs:4>:<guest_sysenter_eip>",
            *_SEGMENT_LINES,
            "GDTR: limit=<guest_gdtr_limit>, base=<guest_gdtr_base>",
            "IDTR: limit=<guest_idtr_limit>, base=<guest_idtr_base>",
            "EFER= <guest_ia32_efer>",
            "EFER= <.efer:16> (autoload)",
            "EFER= <.efer:16> (effective)",
            "EFER = <guest_ia32_efer> PAT = <guest_ia32_pat>",
            "PAT = <guest_ia32_pat>",
            "DebugCtl = <guest_ia32_debugctl> DebugExceptions = <guest_pending_dbg_exceptions>",
            "PerfGlobCtl = <guest_ia32_perf_global_ctrl>",
            "BndCfgS = <guest_bndcfgs>",
            "Interruptibility = <guest_interruptibility_info> "
            "ActivityState = <guest_activity_state>",
            "InterruptStatus = <guest_intr_status>",
        ),
        "host": (
            "RIP = <host_rip> RSP = <host_rsp>",
            "CS=<host_cs_selector> SS=<host_ss_selector> DS=<host_ds_selector> "
            "ES=<host_es_selector> FS=<host_fs_selector> GS=<host_gs_selector> "
            "TR=<host_tr_selector>",
            "FSBase=<host_fs_base> GSBase=<host_gs_base> TRBase=<host_tr_base>",
            "GDTBase=<host_gdtr_base> IDTBase=<host_idtr_base>",
            "CR0=<host_cr0> CR3=<host_cr3> CR4=<host_cr4>",
            "Sysenter RSP=<host_ia32_sysenter_esp> "
            "CS:RIP=<host_ia32_sysenter_cs:4>:<host_ia32_sysenter_eip>",
            "EFER= <host_ia32_efer>",
            "EFER = <host_ia32_efer> PAT = <host_ia32_pat>",
            "PAT = <host_ia32_pat>",
            "PerfGlobCtl = <host_ia32_perf_global_ctrl>",
        ),
        "control": (
            "PinBased=<pin_based_vm_exec_control> CPUBased=<cpu_based_vm_exec_control> "
            "SecondaryExec=<secondary_vm_exec_control>",
            "PinBased=<pin_based_vm_exec_control> CPUBased=<cpu_based_vm_exec_control> "
            "SecondaryExec=<secondary_vm_exec_control> TertiaryExec=<tertiary_vm_exec_control>",
            "CPUBased=<cpu_based_vm_exec_control> SecondaryExec=<secondary_vm_exec_control> "
            "TertiaryExec=<tertiary_vm_exec_control>",
            "PinBased=<pin_based_vm_exec_control> EntryControls=<vm_entry_controls> "
            "ExitControls=<vm_exit_controls>",
            "EntryControls=<vm_entry_controls> ExitControls=<vm_exit_controls>",
            "ExceptionBitmap=<exception_bitmap> PFECmask=<page_fault_error_code_mask> "
            "PFECmatch=<page_fault_error_code_match>",
            "VMEntry: intr_info=<vm_entry_intr_info_field> "
            "errcode=<vm_entry_exception_error_code> ilen=<vm_entry_instruction_len>",
            "VMExit: intr_info=<vm_exit_intr_info> errcode=<vm_exit_intr_error_code> "
            "ilen=<vm_exit_instruction_len>",
            "reason=<vm_exit_reason> qualification=<exit_qualification>",
            "IDTVectoring: info=<idt_vectoring_info_field> errcode=<idt_vectoring_error_code>",
            "TSC Offset = <tsc_offset>",
            "TSC Multiplier = <tsc_multiplier>",
            "SVI|RVI = <.svi:2>|<.rvi:2> TPR Threshold = <tpr_threshold:2>",
            "SVI|RVI = <.svi:2>|<.rvi:2>",
            "TPR Threshold = <tpr_threshold:2>",
            "APIC-access addr = <apic_access_addr> virt-APIC addr = <virtual_apic_page_addr>",
            "APIC-access addr = <apic_access_addr>",
            "virt-APIC addr = <virtual_apic_page_addr>",
            "PostedIntrVec = <posted_intr_nv:2>",
            "EPT pointer = <ept_pointer>",
            "PLE Gap=<ple_gap> Window=<ple_window>",
            "Virtual processor ID = <virtual_processor_id>",
        ),
    }.items()
}
_TELLING: Final = {
    "guest": ("cr0_read_shadow", "cr4_read_shadow", *(f"guest_{name}_limit" for name in SEGMENTS)),
    "host": ("host_rsp", "host_cs_selector", "host_fs_base", "host_gdtr_base", "host_cr3"),
    "control": (
        "cpu_based_vm_exec_control",
        "vm_exit_controls",
        "vm_entry_intr_info_field",
        "vm_exit_reason",
    ),
}
"""Fields by whose lines a part is known where its heading is lost."""
_OPENING: Final = tuple(
    (part, line)
    for part, names in _TELLING.items()
    for line in _LINES[part]
    if not set(names).isdisjoint(line.names)
)


class KernelReader:
    """Takes the lines of a log one by one; what it has found is `finish`ed."""

    def __init__(self) -> None:
        self._dumps = Dumps()
        self._begin(0)

    def take(self, line: Line) -> bool:
        """Take a line; tell whether it belongs to a dump of KVM."""
        text = line.text
        if "=" not in text and text[0] not in _UNEQUAL:
            return False
        part = _PARTS.get(text)
        if part is not None or _FIRST.fullmatch(text):
            self._enter(line, part)
            return True
        return self._msr_line(line) or self._field_line(line)

    def finish(self) -> Iterator[Dump]:
        """Return the dumps, the last one as far as it goes."""
        self._end()
        return iter(self._dumps.found)

    # ------------------------------------------------------------------ parts

    def _begin(self, number: int) -> None:
        self._number = number
        self._part = ""
        self._parts: list[str] = []
        self._values: dict[str, tuple[int, int]] = {}
        self._list = ""
        self._msrs: list[tuple[int, int]] = []

    def _end(self) -> None:
        values = {name: value for name, (value, _) in self._values.items()}
        if values:
            self._dumps.add(
                Dump(
                    "kvm",
                    self._number,
                    {name: value for name, value in values.items() if not is_fact(name)},
                    {name[1:]: value for name, value in values.items() if is_fact(name)},
                    tuple(self._msrs),
                    parts=tuple(self._parts),
                )
            )

    def _enter(self, line: Line, part: str | None) -> None:
        if part in (None, "guest") and (self._values or not self._number):
            self._end()
            self._begin(line.number)
        self._number = self._number or line.number
        self._part = part or "guest"
        self._list = ""

    # ------------------------------------------------------------------ lines

    def _msr_line(self, line: Line) -> bool:
        begins = _MSR_LIST.fullmatch(line.text)
        if begins and self._part:
            self._list = begins[1]
            return True
        found = _MSR.read(line.text) if self._list else None
        if found is None:
            return False
        if self._list == _GUEST_LOAD and len(self._msrs) < _MOST_MSRS:
            self._msrs.append((found[".index"], found[".value"]))
        return True

    def _field_line(self, line: Line) -> bool:
        for known in _LINES.get(self._part, ()):
            found = known.read(line.text)
            if found is not None:
                self._add(line, found)
                return True
        return self._first_of_part(line)

    def _first_of_part(self, line: Line) -> bool:
        """Take a line of another part, or of a new dump, that has lost its heading."""
        for part, known in _OPENING:
            found = known.read(line.text)
            if found is not None:
                self._enter(line, part)
                self._add(line, found)
                return True
        return False

    def _add(self, line: Line, found: Mapping[str, int]) -> None:
        self._list = ""
        for name, value in found.items():
            if not is_fact(name) and value >> FIELD_BY_NAME[name].width:
                raise InputError(
                    f"line {line.number}: {value:#x} does not fit into the {name} field: "
                    "the log is damaged there"
                )
            known, number = self._values.setdefault(name, (value, line.number))
            if known != value:
                raise InputError(
                    f"line {line.number}: {name.lstrip('.')} is {value:#x}, and {known:#x} on line "
                    f"{number}: two dumps are mixed, give one of them"
                )
        if self._part not in self._parts:
            self._parts.append(self._part)
