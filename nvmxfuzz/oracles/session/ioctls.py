# SPDX-License-Identifier: GPL-2.0-only
"""Which ioctls KVM must take while L2 is active: a later one may mend what this one breaks.

An ioctl may be refused for what it sets: reserved bits, an event that there is none of, registers
that contradict one another. Whether L2 can run with it is not asked before the next VM entry.
Here stands, by kind of step, what is legal by itself on every processor that KVM runs on.
KVM_SET_CPUID2 is not there: KVM takes another CPUID from no vCPU that has run, nor while L2 is
active, whatever it says.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from nvmxfuzz.arch.registers import Cr0, Cr4, Efer
from nvmxfuzz.inputs.session_steps import (
    MP_STATES,
    SETS_NESTED_STATE,
    STEP_BY_NAME,
    VCPUS,
    SessionStep,
)
from nvmxfuzz.oracles.restore.offer import Found
from nvmxfuzz.oracles.session.play import Moment, Played
from nvmxfuzz.oracles.session.state import State

_Legal: TypeAlias = Callable[[SessionStep, State], bool]

_FREE: Final = frozenset({"cr2", "cr8", "gdt_base", "gdt_limit", "idt_base", "idt_limit"})
"""Registers that KVM_SET_SREGS takes any value for; bits that CR8 does not have are ignored."""
_PDPTES: Final = frozenset({"pdptr0", "pdptr1", "pdptr2", "pdptr3"})
"""Those that KVM_SET_SREGS2 takes where PAE paging is used."""
_BITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "cr0": int(Cr0.MP | Cr0.EM | Cr0.TS | Cr0.ET | Cr0.NE | Cr0.WP | Cr0.AM),
        "cr3": (1 << 36) - 1,
        "cr4": int(Cr4.VME | Cr4.PVI | Cr4.TSD | Cr4.DE | Cr4.PSE | Cr4.MCE | Cr4.PGE | Cr4.VMXE),
        "efer": int(Efer.SCE),
    }
)
"""Bits that every processor has on which KVM runs here, and that contradict no other register."""
_TYPES_OF_MEMORY: Final = (0, 1, 4, 5, 6, 7)
_EVENT_FLAGS: Final = 0x3F
"""Bits of `flags` of struct kvm_vcpu_events that stand for something."""
_NMI: Final = 2
_EXCEPTIONS: Final = 32
_CANONICAL: Final = 1 << 47


def ioctl_accepts(played: Played) -> Iterator[Found]:
    """No ioctl is refused because of the state of L2 that it leads to."""
    last: Moment | None = None
    swapped = ""
    # Refused, KVM_SET_NESTED_STATE leaves what it has done so far.
    left = [""] * VCPUS
    for moment in played.moments:
        if moment.result.warnings:
            # A VM that KVM has given up refuses all.
            return
        in_l2 = moment.before.in_l2 and not moment.before.in_smm
        if in_l2 and _is_refused(moment) and must_be_taken(moment, last):
            site = _site(moment) + (swapped or left[moment.step.vcpu])
            why = moment.result.errno or moment.result.outcome
            yield site, f"{site} is refused with {why} while L2 is active"
        if moment.result.errno == -errno.EIO:
            # So has one that died without a word: SMRAM is in no memory (enter_smm in 6.12).
            return
        if moment.step.kind in SETS_NESTED_STATE:
            if moment.before.in_smm:
                swapped = ", RSM after another nested state"
            refused = moment.result.errno == -errno.EINVAL
            left[moment.step.vcpu] = ", after a nested state that was refused" if refused else ""
        last = moment


def _is_refused(moment: Moment) -> bool:
    return bool(moment.result.errno) or moment.result.outcome == "refused"


def _site(moment: Moment) -> str:
    step = moment.step
    operands = STEP_BY_NAME[step.kind].operands
    if not operands:
        return step.kind
    chosen = step.chosen(operands[0].name)
    without = ""
    if step.kind == "set-sregs" and chosen in _FIXED:
        name, bit = _FIXED[chosen]
        new = _edited(State(moment.before).sregs[chosen], step)
        without = "" if new & bit else f" without {name}"
    return f"{step.kind} {chosen}{without}"


_FIXED: Final = MappingProxyType({"cr0": ("NE", int(Cr0.NE)), "cr4": ("VMXE", int(Cr4.VMXE))})
"""Bits that are 1 in VMX operation."""


def must_be_taken(moment: Moment, last: Moment | None) -> bool:
    """Whether what an ioctl sets is legal by itself, on a state that KVM itself gave.

    `last` is the moment before; of saved states only one that was saved just then is judged.
    """
    step = moment.step
    if step.kind in SETS_NESTED_STATE:
        return _was_just_saved(step, last)
    legal = _LEGAL.get(step.kind)
    return legal is not None and legal(step, State(moment.before))


def _edited(old: int, step: SessionStep) -> int:
    return (old & ~step.number("unset")) ^ step.number("flip")


# ---------------------------------------------------------------------- registers


def _sregs(step: SessionStep, state: State) -> bool:
    register = step.chosen("register")
    if not _is_consistent(state):
        return False
    if register in _BITS:
        old = state.sregs[register]
        return not (_edited(old, step) ^ old) & ~_BITS[register]
    pae = not state.sregs["efer"] & Efer.LMA and state.sregs["cr4"] & Cr4.PAE
    paged = state.sregs["cr0"] & Cr0.PG
    return register in _FREE or (register in _PDPTES and bool(pae and paged))


def _segment(step: SessionStep, state: State) -> bool:
    long_bit = (step.chosen("segment"), step.chosen("part")) == ("cs", "l")
    return _is_consistent(state) and (not long_bit or _is_long(state))


def _is_long(state: State) -> bool:
    return bool(state.sregs["efer"] & Efer.LME and state.sregs["cr0"] & Cr0.PG)


def _is_consistent(state: State) -> bool:
    """Whether KVM_SET_SREGS takes what KVM_GET_SREGS has given."""
    words = state.sregs
    if not _is_long(state):
        return not words["efer"] & Efer.LMA and not words["cs.l"]
    return bool(words["cr4"] & Cr4.PAE and words["efer"] & Efer.LMA)


def _msr(step: SessionStep, state: State) -> bool:
    name = step.chosen("msr")
    new = _edited(state.msr(name), step)
    match name:
        case "IA32_SYSENTER_CS" | "IA32_TSC" | "IA32_SMBASE":
            return True
        case "IA32_SYSENTER_ESP" | "IA32_SYSENTER_EIP":
            return new < _CANONICAL
        case "IA32_PAT":
            return all(new >> shift & 0xFF in _TYPES_OF_MEMORY for shift in range(0, 64, 8))
        case "IA32_EFER":
            return not (new ^ state.msr(name)) & ~_BITS["efer"]
    return False


# ---------------------------------------------------------------------- events


def _events(step: SessionStep, state: State) -> bool:
    part, value = step.chosen("part"), step.number("value")
    if part == "flags":
        return not value & ~_EVENT_FLAGS
    words = state.events | {part: value & 0xFF}
    if words.get("exception.injected", 0) or words.get("exception.pending", 0):
        vector = words.get("exception.nr", 0)
        if vector >= _EXCEPTIONS or vector == _NMI:
            return False
    smi = words.get("smi.smm", 0) or words.get("smi.pending", 0)
    return not smi or state.view.mp_state != MP_STATES.index("init-received")


def _mp_state(step: SessionStep, state: State) -> bool:
    awaits = step.chosen("state") in ("init-received", "sipi-received")
    return not awaits or not state.events.get("smi.pending", 0)


def _was_just_saved(step: SessionStep, last: Moment | None) -> bool:
    if last is None or last.step.kind != "save" or last.step.vcpu != step.vcpu:
        return False
    edited = step.kind == "set-nested-state" and (step.number("unset") or step.number("flip"))
    return last.step.chosen("slot") == step.chosen("slot") and not edited


_LEGAL: Final[Mapping[str, _Legal]] = MappingProxyType(
    {
        "set-regs": lambda _step, _state: True,
        "set-sregs": _sregs,
        "set-segment": _segment,
        "set-msr": _msr,
        "set-events": _events,
        "set-mp-state": _mp_state,
        "nmi": lambda _step, _state: True,
    }
)
