# SPDX-License-Identifier: GPL-2.0-only
"""What a VMX instruction of L1 leaves behind where it is done, by its operation in the SDM.

SDM: "VMX Instructions". What it comes to is a matter of `instructions`. Of memory nothing is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.arch.segments import SEGMENTS
from nvmxfuzz.inputs.session_steps import SessionStep
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.machine.processor import NO_POINTER
from nvmxfuzz.oracles.restore.offer import Found
from nvmxfuzz.oracles.session.instructions import DONE
from nvmxfuzz.oracles.session.play import Played
from nvmxfuzz.oracles.session.seen import executed_by_l1
from nvmxfuzz.oracles.session.state import State
from nvmxfuzz.oracles.session.witness import PLACE_ADDRESSES

_Seen: TypeAlias = tuple[str, int, int]
"""What an instruction decides, as it is to be and as it is."""
_Effect: TypeAlias = Callable[[SessionStep, State, State], tuple[_Seen, ...]]

_RESERVED_RIGHTS: Final = 0x0F00
"""Of access rights, which a processor may keep as 0, as those above bit 16."""


def instruction_effects(played: Played) -> Iterator[Found]:
    """A VMX instruction of L1 that is done has the effect that its operation in the SDM has."""
    for moment, before, doubts in executed_by_l1(played):
        effect = _EFFECTS.get(moment.step.kind)
        outcome = moment.result.outcome
        if effect is None or doubts.evmcs or outcome not in (DONE, str(ENTERED)):
            continue
        for what, wanted, there in effect(moment.step, before, State(moment.after)):
            if wanted != there:
                site = f"{moment.step.kind}: {what}"
                yield site, f"after {moment.step.kind} {what} is {there:#x}, not {wanted:#x}"


def _vmxon(step: SessionStep, _before: State, after: State) -> tuple[_Seen, ...]:
    region = PLACE_ADDRESSES[step.chosen("region")]
    return (
        ("VMXON pointer", region, after.nested["vmxon_pa"]),
        ("current-VMCS pointer", NO_POINTER, after.current),
    )


def _vmxoff(_step: SessionStep, _before: State, after: State) -> tuple[_Seen, ...]:
    return (("VMXON pointer", NO_POINTER, after.nested["vmxon_pa"]),)


def _vmptrld(step: SessionStep, _before: State, after: State) -> tuple[_Seen, ...]:
    return (("current-VMCS pointer", PLACE_ADDRESSES[step.chosen("region")], after.current),)


def _vmclear(step: SessionStep, before: State, after: State) -> tuple[_Seen, ...]:
    is_current = PLACE_ADDRESSES[step.chosen("region")] == before.current
    wanted = NO_POINTER if is_current else before.current
    return (("current-VMCS pointer", wanted, after.current),)


def _vmread(step: SessionStep, before: State, after: State) -> tuple[_Seen, ...]:
    name = step.chosen("field")
    return (("RAX", before.vmcs12.get(name, 0), after.regs["rax"]),)


def _vmwrite(step: SessionStep, _before: State, after: State) -> tuple[_Seen, ...]:
    name = step.chosen("field")
    bits = (1 << FIELD_BY_NAME[name].width) - 1
    if name.endswith("_ar_bytes"):
        bits &= ~_RESERVED_RIGHTS & 0x1_FFFF
    return ((name, step.number("value") & bits, after.vmcs12.get(name, 0) & bits),)


def _entry(_step: SessionStep, before: State, after: State) -> tuple[_Seen, ...]:
    """L2 is to run, with the state that the VMCS of L1 has for it.

    That it is launched KVM notes when L2 is left: nobody can tell before.
    """
    told, words = before.vmcs12, after.regs | after.sregs
    registers = ((OF_L2[name], told.get(name, 0), words[OF_L2[name]]) for name in OF_L2)
    return (("L2", 1, int(after.view.in_l2)), *registers)


OF_L2: Final[Mapping[str, str]] = MappingProxyType(
    {"guest_rip": "rip", "guest_rsp": "rsp", "guest_rflags": "rflags", "guest_cr3": "cr3"}
    | {"guest_gdtr_base": "gdt.base", "guest_idtr_base": "idt.base"}
    | {
        f"guest_{segment}_{part}": f"{'ldt' if segment == 'ldtr' else segment}.{part}"
        for segment in SEGMENTS
        for part in ("selector", "base", "limit")
    }
)
"""Fields of the guest-state area, and what userspace reads of an L2 that has not run yet.

Of the limits of GDTR and IDTR it reads 16 bits.
"""

_EFFECTS: Final[Mapping[str, _Effect]] = MappingProxyType(
    {
        "vmxon": _vmxon,
        "vmxoff": _vmxoff,
        "vmptrld": _vmptrld,
        "vmclear": _vmclear,
        "vmread": _vmread,
        "vmwrite": _vmwrite,
        "vmlaunch": _entry,
        "vmresume": _entry,
    }
)
