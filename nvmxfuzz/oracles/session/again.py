# SPDX-License-Identifier: GPL-2.0-only
"""What must hold between a session and another one that should come to the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from nvmxfuzz.inputs.session_steps import MSRS, STEP_BY_NAME, VCPUS, SessionStep, session_step
from nvmxfuzz.inputs.world import World, parameters_of
from nvmxfuzz.oracles.restore.offer import Found
from nvmxfuzz.oracles.session.play import NOT_MODELLED, Moment, Played
from nvmxfuzz.oracles.session.seen import is_executed, name_of
from nvmxfuzz.oracles.session.state import State
from nvmxfuzz.oracles.session.witness import VcpuView

_PASSING: Final = frozenset({"IA32_TSC", "preemption_timer_deadline", "exception_payload"})
"""What goes on by itself, or means nothing unless something else says so."""
_OF_VCPU: Final = frozenset({"exit_qualification", "guest_linear_address", "cr2"})
"""Where operands are, which depends on the vCPU."""
_RUN_PENDING: Final = 2
_SMM_GUEST_MODE: Final = 1
_COMPLETE: Final = ("", "intr")
"""Why KVM_RUN came back where the guest is between two instructions."""
_STUFFING: Final = frozenset(
    {
        *("set-sregs", "set-segment", "set-regs", "set-msr", "set-cpuid", "set-events"),
        *("set-mp-state", "restore", "set-nested-state", "memory-write", "smram-write"),
        *("init", "sipi", "interrupt", "set-lapic", "no-memory"),
        *("enlighten", "assist-page", "prepare-enlightened"),
    }
)
"""What edits the guest behind its back, or is not part of what `save` keeps."""
_REAL: Final = ("real", "virtual-8086")
_MODES_OF_GUESTS: Final = frozenset({"guest-real", "guest-v86"})
_VMX_MSRS: Final = "IA32_VMX_"
_NOT_OF_VMCS01: Final = frozenset({"sregs.cr2", "sregs.cr8", "sregs.apic_base"})
_OF_VMCS01: Final = frozenset(
    {
        *("regs.rip", "regs.rsp", "regs.rflags", "msrs.IA32_EFER"),
        *("msrs.IA32_SYSENTER_CS", "msrs.IA32_SYSENTER_ESP", "msrs.IA32_SYSENTER_EIP"),
    }
)
"""What L1 gets from vmcs01, of what KVM_GET_SREGS does not tell."""
_SLOTS: Final = ("a", "b")


def differences(
    one: VcpuView, other: VcpuView, ignored: frozenset[str] = _PASSING
) -> tuple[str, ...]:
    """Return the names of what two views differ in; that L2 is yet to be entered is no part."""
    found: list[str] = []
    for part in ("regs", "sregs", "events", "msrs", "nested", "vmcs12", "shadow_vmcs12"):
        left, right = dict(getattr(one, part)), dict(getattr(other, part))
        if part == "nested":
            left["flags"] |= _RUN_PENDING
            right["flags"] |= _RUN_PENDING
        found += [
            f"{part}.{name}"
            for name in sorted(left.keys() | right.keys())
            if left.get(name, 0) != right.get(name, 0) and name not in ignored
        ]
    if one.mp_state != other.mp_state:
        found.append("mp_state")
    return tuple(found)


def _told(moment: Moment) -> tuple[object, ...]:
    result = moment.result
    return result.errno, result.outcome, result.stopped


def _first_difference(
    one: Sequence[Moment], other: Sequence[Moment], ignored: frozenset[str] = _PASSING
) -> tuple[str, str] | None:
    """Return where two runs of the same steps part: the kind of step, and how.

    Runs are compared up to where userspace edits the guest, or the guest sleeps, which some event
    ends that cannot be seen.
    """
    stayed = [True] * VCPUS
    for mine, theirs in zip(one, other, strict=False):
        kind, vcpu = name_of(mine.step), mine.step.vcpu
        if any(each.result.stopped.startswith(NOT_MODELLED) for each in (mine, theirs)):
            return None
        stayed[vcpu] &= mine.before.in_l2 or _is_in_smm_over_l2(mine.before)
        if mine.before.mp_state or theirs.before.mp_state or _is_odd(mine):
            return None
        if _told(mine) != _told(theirs):
            return kind, f"{kind} is {_told(mine)}, and {_told(theirs)}"
        if names := differences(mine.after, theirs.after, ignored):
            what = _what(kind, names, stayed[vcpu])
            return f"{kind}: {what}", f"after {kind} there is another {', '.join(names[:8])}"
    return None


def _what(kind: str, names: Sequence[str], stayed: bool) -> str:
    """Return what differs: the first name, but for what is in vmcs01 if that is the cause.

    It is where a VMfail leaves L2, which has `stayed` since the runs parted, but for SMM over it:
    KVM has not loaded L1 since.
    """
    if kind != "l2-exit vmfail" or not stayed:
        return names[0]
    return next((name for name in names if not _is_of_vmcs01(name)), "L1 of vmcs01")


def _is_in_smm_over_l2(view: VcpuView) -> bool:
    return view.in_smm and dict(view.nested)["smm_flags"] & _SMM_GUEST_MODE != 0


def _is_of_vmcs01(name: str) -> bool:
    return name in _OF_VMCS01 or (name.startswith("sregs.") and name not in _NOT_OF_VMCS01)


def _is_odd(moment: Moment) -> bool:
    outside = moment.step.kind == "rsm" and not moment.before.in_smm
    return outside or is_stuffed(moment.step)


# ---------------------------------------------------------------------- order


def order(played: Played) -> Iterator[Found]:
    """Where two ioctls come to the same in either order, the steps after them do so too."""
    steps = played.case.steps
    for at in range(len(played.moments) - 2):
        one, two = steps[at], steps[at + 1]
        if not (_is_ioctl(one) and _is_ioctl(two)) or one == two:
            continue
        swapped = played.again((*steps[:at], two, one, *steps[at + 2 :]))
        if len(swapped) <= at + 2 or not _same_pair(played.moments, swapped, at):
            continue
        found = _first_difference(played.moments[at + 2 :], swapped[at + 2 :])
        if found is not None:
            kinds = " and ".join(sorted((one.kind, two.kind)))
            counted = ", several NMIs" if any(map(_has_several_nmis, (one, two))) else ""
            yield (
                f"{kinds}{counted}, {found[0]}",
                f"{one.kind} and {two.kind} in the other order: {found[1]}",
            )
        return


def _is_ioctl(step: SessionStep) -> bool:
    return STEP_BY_NAME[step.kind].actor == "userspace" and step.kind not in (
        "run-immediate",
        "save",
        "restore",
        "set-nested-state",
    )


def _has_several_nmis(step: SessionStep) -> bool:
    """Whether userspace asks for more NMIs than KVM_GET_VCPU_EVENTS tells of."""
    is_pending = step.kind == "set-events" and step.chosen("part") == "nmi.pending"
    return is_pending and step.number("value") & 0xFF > 1


def _same_pair(one: Sequence[Moment], other: Sequence[Moment], at: int) -> bool:
    """Whether two steps and the same in the other order end in the same state."""
    if _told(one[at]) != _told(other[at + 1]) or _told(one[at + 1]) != _told(other[at]):
        return False
    mine, theirs = (_last_views(moments[: at + 2]) for moments in (one, other))
    return mine.keys() == theirs.keys() and not any(
        differences(mine[vcpu], theirs[vcpu]) for vcpu in mine
    )


def _last_views(moments: Sequence[Moment]) -> dict[int, VcpuView]:
    return {moment.step.vcpu: moment.after for moment in moments}


# ---------------------------------------------------------------------- SMM


def smm_round_trip(played: Played) -> Iterator[Found]:
    """An SMI and RSM, with SMRAM as it was saved, change nothing for L1 and L2."""
    at = _place(played, _may_be_interrupted)
    if at is None:
        return
    steps, vcpu = played.case.steps, played.case.steps[at].vcpu
    if any(step.kind == "smi" and step.vcpu != vcpu for step in steps):
        # Both vCPUs have their SMRAM in one place.
        return
    there = (session_step("smi", vcpu), session_step("rsm", vcpu))
    # After RSM L2 is entered before any event comes: so it is in both.
    entered = (session_step("l2-exit", vcpu, exit="external-interrupt"),)
    again = played.again((*steps[:at], *there, *entered, *steps[at:]))
    if len(again) < at + 2 or not again[at].after.in_smm:
        return
    where = "L2" if again[at].before.in_l2 else "L1"
    back = again[at + 1]
    if back.result.stopped:
        return
    if names := differences(again[at].before, back.after):
        yield f"{where}: {names[0]}", f"SMI and RSM in {where} change {', '.join(names[:8])}"
        return
    without = played.again((*steps[:at], *entered, *steps[at:]))
    found = _first_difference(without[at:], again[at + 2 :])
    if found is not None:
        yield f"{where}, {found[0]}", f"after SMI and RSM in {where}: {found[1]}"


def _may_be_interrupted(state: State) -> bool:
    """Whether an SMI changes nothing else: not that L2 is entered at last."""
    pending = state.nested["flags"] & _RUN_PENDING
    return not state.view.in_smm and not pending and state.is_at_rest


def _place(played: Played, fits: Callable[[State], bool]) -> int | None:
    """Return the first step that finds L2 active and its vCPU fit, else L1 in VMX operation."""
    inside: int | None = None
    left = [""] * VCPUS
    for at, moment in enumerate(played.moments):
        if at and _may_be_impossible(played.case.steps[at - 1]):
            return inside
        state, before = State(moment.before), left[moment.step.vcpu]
        left[moment.step.vcpu] = moment.result.left or before
        if moment.result.stopped or not fits(state) or before not in _COMPLETE:
            continue
        if state.view.in_l2:
            return at
        if inside is None and state.in_vmx:
            inside = at
    return inside


# ---------------------------------------------------------------------- migration


def nested_state_round_trip(played: Played) -> Iterator[Found]:
    """A vCPU that gets what was saved of another goes on as that one would have done."""
    steps = played.case.steps
    free = [name for name in _SLOTS if not _uses(steps, name)]
    at = _place(played, lambda state: state.is_at_rest)
    if at is None or not free or any(map(_is_of_one_vcpu, steps)):
        return
    there = (session_step("save", 0, slot=free[0]), session_step("restore", 1, slot=free[0]))
    moved = tuple(replace(step, vcpu=VCPUS - 1) for step in steps[at:])
    again = played.again((*steps[:at], *there, *moved))
    if len(again) < at + 2 or again[at + 1].result.stopped:
        return
    where = _where(again[at].before)
    restored = again[at + 1].result
    if restored.errno or restored.outcome:
        why = restored.outcome or restored.errno
        yield f"{where}: refused", f"what is saved in {where} cannot be restored: {why}"
        return
    if names := differences(again[at].before, again[at + 1].after):
        said = ", ".join(names[:8])
        yield f"{where}: {names[0]}", f"restored in {where}, there is another {said}"
        return
    found = _first_difference(played.moments[at:], again[at + 2 :], _PASSING | _OF_VCPU)
    if found is not None:
        yield f"{where}, {found[0]}", f"after a restore in {where}: {found[1]}"


def is_stuffed(step: SessionStep) -> bool:
    """Whether a step edits the guest behind its back, or makes it do so.

    A general-purpose register could hold any value by the guest's own doing.
    """
    if step.kind == "set-regs":
        return step.chosen("register") in ("rip", "rflags")
    return step.kind in _STUFFING or (is_executed(step) and step.chosen("mode") != "kernel")


def _may_be_impossible(step: SessionStep) -> bool:
    """Whether a step may lead to an L2 that no processor would enter; KVM leaves it that check."""
    return is_stuffed(step) or step.kind == "vmwrite"


def _is_of_one_vcpu(step: SessionStep) -> bool:
    """Whether a step is another one on the other vCPU, which is no bootstrap processor."""
    return step.vcpu != 0 or step.kind in ("init", "sipi", "set-cpuid", "set-mp-state")


def _uses(steps: Sequence[SessionStep], slot: str) -> bool:
    kinds = ("save", "restore", "set-nested-state")
    return any(step.kind in kinds and step.chosen("slot") == slot for step in steps)


def _where(view: VcpuView) -> str:
    return ("SMM over " if view.in_smm else "") + ("L2" if view.in_l2 else "L1")


# ---------------------------------------------------------------------- modes


def two_modes_agree(played: Played) -> Iterator[Found]:
    """With and without unrestricted guests it is the same, unless L2 needs one or is edited."""
    case = played.case
    if not case.world.parameter("ept") or any(map(_makes_a_difference, case.steps)):
        return
    other = _other_mode(case.world)
    again = played.again(case.steps, other)
    ignored = _PASSING | {name for name in MSRS if name.startswith(_VMX_MSRS)}
    found = _first_difference(played.moments, again, ignored)
    if found is not None:
        yield found[0], f"without unrestricted guests or with them: {found[1]}"


def _other_mode(world: World) -> World:
    parameters = dict(world.parameters)
    parameters["unrestricted_guest"] = 1 - world.parameter("unrestricted_guest")
    return replace(world, parameters=parameters_of(parameters))


def _makes_a_difference(step: SessionStep) -> bool:
    if step.kind == "prepare":
        return step.chosen("base") in _MODES_OF_GUESTS
    if step.kind == "vmwrite":
        return step.chosen("field") in ("secondary_vm_exec_control", "guest_cr0")
    if is_executed(step) and step.chosen("mode") in _REAL:
        return True
    # SMM begins in real-address mode, which KVM emulates in the one mode.
    return is_stuffed(step) or step.kind in ("smi", "rsm")
