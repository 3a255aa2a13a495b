# SPDX-License-Identifier: GPL-2.0-only
"""What a C program has to write into a VMCS that enters, so that it is the one of a case.

The test frameworks have a valid VMCS of their own, whose addresses and capabilities are those of
the machine. Of words of bits the case's changes are made there; other fields get the case's value;
what points into memory of the case's points to a spare page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.arch.controls import VmEntry, VmExit
from nvmxfuzz.arch.fields import FIELDS, Field
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs import places
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.machine.outcome import Outcome

_VALID: Final = "guest-64"
"""The base that is most like the VMCS of the frameworks."""
_WORDS: Final = frozenset(
    {
        "pin_based_vm_exec_control",
        "cpu_based_vm_exec_control",
        "secondary_vm_exec_control",
        "tertiary_vm_exec_control",
        "vm_exit_controls",
        "secondary_vm_exit_controls",
        "vm_entry_controls",
        *(f"{side}_cr{number}" for side in ("guest", "host") for number in (0, 4)),
    }
)
"""Fields of which bits are set and cleared."""
_LOADED: Final = {
    "vm_entry_controls": {
        VmEntry.LOAD_IA32_EFER: "guest_ia32_efer",
        VmEntry.LOAD_IA32_PAT: "guest_ia32_pat",
        VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL: "guest_ia32_perf_global_ctrl",
        VmEntry.LOAD_IA32_BNDCFGS: "guest_bndcfgs",
    },
    "vm_exit_controls": {
        VmExit.LOAD_IA32_EFER: "host_ia32_efer",
        VmExit.LOAD_IA32_PAT: "host_ia32_pat",
    },
}
"""Fields that a control brings into play: they are written with it, since they may be 0."""
_OF_THE_FRAMEWORK: Final = ("host_rip", "host_rsp")
"""Fields that the frameworks write themselves right before VM entry."""
_UNKNOWN_TO_SELFTESTS: Final = frozenset(
    {
        "LAST_PID_POINTER_INDEX",
        "VM_FUNCTION_CONTROL",
        "EPTP_LIST_ADDRESS",
        "VE_INFORMATION_ADDRESS",
        "TERTIARY_VM_EXEC_CONTROL",
        "PID_POINTER_TABLE",
        "GUEST_IA32_RTIT_CTL",
        "NOTIFY_WINDOW",
    }
)
"""Macros of the kernel that its selftests lack, in 6.1 as in 6.12."""
_PAGE: Final = 0xFFF
_PAGES: Final = frozenset(
    value for name, value in vars(places).items() if name.isupper() and isinstance(value, int)
)


@dataclass(frozen=True, slots=True)
class Write:
    """One field: written as `value`, or of a word of bits those in `set` and `clear` changed.

    `in_spare_page`: the value is an offset into a page of the program's own.
    """

    field: Field
    value: int
    before: int
    is_word: bool = False
    in_spare_page: bool = False

    @property
    def set_bits(self) -> int:
        """The bits that are 1 in the case and 0 before."""
        return self.value & ~self.before

    @property
    def clear_bits(self) -> int:
        """The bits that are 0 in the case and 1 before."""
        return self.before & ~self.value

    @property
    def macro(self) -> str:
        """The field as the selftests name it: by its encoding where they have no name."""
        name = self.field.macro
        known = name is not None and name not in _UNKNOWN_TO_SELFTESTS
        return str(name) if known else f"{self.field.encoding:#06x}"

    @property
    def encoding(self) -> str:
        """The encoding of the field."""
        return f"{self.field.encoding:#06x}"


def writes_of(case: EntryCase) -> tuple[Write, ...]:
    """Return what to write, in the order of the encodings."""
    attempt = case.attempt
    before = base(_VALID, attempt.profile).vmcs.items()
    after = attempt.vmcs.items()
    in_play = {
        name
        for word, fields in _LOADED.items()
        for control, name in fields.items()
        if after[word] & ~before[word] & control
    }
    return tuple(
        _write(field, after[field.name], before[field.name])
        for field in FIELDS
        if field.type != "exit-info"
        and (after[field.name] != before[field.name] or field.name in in_play)
    )


def _write(field: Field, value: int, before: int) -> Write:
    if field.name in _WORDS:
        return Write(field, value, before, is_word=True)
    spare = field.width == 64 and not field.natural and value & ~_PAGE in _PAGES
    return Write(field, value & _PAGE if spare else value, before, in_spare_page=spare)


def representable(case: EntryCase, writes: Sequence[Write], permitted: Sequence[Outcome]) -> None:
    """Refuse a case that a program of the frameworks cannot be: InputError says why."""
    attempt, start = case.attempt, base(_VALID, case.attempt.profile)
    if attempt.processor != start.processor:
        raise InputError(
            "it changes the mode of the hypervisor itself, which a C program of a framework "
            "cannot: export it as toml, json or pytest"
        )
    if attempt.memory != base(case.base, attempt.profile).memory:
        raise InputError(
            "it changes memory that the VMCS points to, which a C program of a framework does not "
            "place: export it as toml, json or pytest"
        )
    taken = [write.field.name for write in writes if write.field.name in _OF_THE_FRAMEWORK]
    if taken:
        raise InputError(
            f"it changes {taken[0]}, which the frameworks write themselves before each VM entry: "
            "export it as toml, json or pytest"
        )
    if any(outcome.kind == "fault" for outcome in permitted):
        raise InputError(
            "VMLAUNCH itself is to fault, which would end the hypervisor of a framework: export it "
            "as toml, json or pytest"
        )
