# SPDX-License-Identifier: GPL-2.0-only
"""The oracles of sessions: a KVM that does as it must, and one planted fault for each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from nvmxfuzz.inputs.case import SessionCase
from nvmxfuzz.inputs.session_steps import SessionStep, session_step
from nvmxfuzz.inputs.world import world_on
from nvmxfuzz.oracles.session.oracles import ALWAYS, BREACHES, OTHERS, breaches
from nvmxfuzz.oracles.session.play import Stage, play
from nvmxfuzz.oracles.session.witness import StepResult
from tests.oracles.toy_sessions import (
    KERNEL,
    REFUSED,
    Fault,
    Toy,
)


def steps(*kinds: str) -> tuple[SessionStep, ...]:
    return tuple(map(session_step, kinds))


L2 = (
    *steps("vmxon", "vmptrld", "prepare", "vmlaunch"),
    session_step("l2-exit", exit="external-interrupt"),
)
BROKEN = session_step("set-segment", segment="ss", part="type", value=11)
MENDED = session_step("set-segment", segment="ss", part="type", value=3)
RESTRICTED = replace(world_on("skylake-x", KERNEL), parameters=(("unrestricted_guest", 0),))
CASES = {
    "plain": SessionCase(RESTRICTED, (*L2, *steps("run", "vmptrld", "vmxon"))),
    "broken": SessionCase(RESTRICTED, (*L2, BROKEN, *steps("run", "vmptrld"))),
    "mended": SessionCase(RESTRICTED, (*L2, BROKEN, MENDED, *steps("run"))),
    "idle": SessionCase(RESTRICTED, steps("run", "vmxon", "run")),
    "refused": SessionCase(
        RESTRICTED,
        (
            *steps("vmxon", "vmptrld", "prepare"),
            session_step("vmwrite", field="pin_based_vm_exec_control", value=0xFFFF_FFFF),
            session_step("vmwrite", field="vm_entry_msr_load_count", value=1),
            *steps("vmlaunch"),
        ),
    ),
    "ioctls": SessionCase(
        RESTRICTED,
        (
            *L2,
            session_step("set-regs", register="rax", value=5),
            session_step("set-sregs", register="cr2", flip=0x1000),
            *steps("run"),
        ),
    ),
    "told": SessionCase(RESTRICTED, (*L2, *steps("run-immediate"))),
    "effects": SessionCase(
        RESTRICTED,
        (
            *steps("vmxon", "vmptrld", "prepare"),
            session_step("vmwrite", field="host_rip", value=0x7000),
            session_step("vmread", field="host_rip"),
            *steps("vmclear", "vmptrld", "vmlaunch"),
        ),
    ),
    "restored": SessionCase(
        RESTRICTED,
        (
            *L2,
            *steps("save", "run", "restore"),
            session_step("set-nested-state", part="flags", flip=2),
            *steps("set-nested-state"),
        ),
    ),
}


def good(_toy: Toy, _step: SessionStep, result: StepResult) -> StepResult:
    return result


def found(
    case: SessionCase, fault: Callable[[Toy, SessionStep, StepResult], StepResult]
) -> set[str]:
    """Return the oracles that fire."""
    stage = Stage(Toy(fault))
    names = set()
    for oracle in (*ALWAYS, *OTHERS):
        finding = oracle.check(case, lambda each: play(stage, each))
        if finding is not None:
            assert finding.oracle == oracle.name
            assert finding.targets == (f"kvm-{KERNEL}", "promise")
            names.add(oracle.name)
    return names


@pytest.mark.parametrize("name", CASES)
def test_a_kvm_that_keeps_its_promises_is_left_in_peace(name: str) -> None:
    assert found(CASES[name], good) == set()
    assert breaches(play(Stage(Toy(good)), CASES[name])) == ()


def warns(_toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    return replace(result, warnings=("nested.c:1",)) if step.kind == "run" else result


def dies(_toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    return replace(result, stopped="BUG") if step.kind == "run" else result


def emulates(_toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    return replace(result, emulated=step.kind == "run")


def emulates_by_design_too(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    return replace(result, emulated=step.kind == "l2-exit" and BROKEN in toy.done)


def goes_on(_toy: Toy, _step: SessionStep, result: StepResult) -> StepResult:
    ended = result.outcome == "triple-fault"
    return replace(result, outcome="exit 18") if ended else result


def ends_early(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    """Whatever was broken once ends in a triple fault, also if it has been mended."""
    broken = step.kind == "run" and BROKEN in toy.done
    return replace(result, outcome="triple-fault") if broken else result


def refuses(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    refused = step.kind == "set-segment" and toy.views[step.vcpu].in_l2
    return replace(result, errno=-22) if refused else result


def forgets_errors(_toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    return replace(result, outcome="done") if step.kind == "vmxon" else result


def enters(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    if result.outcome != REFUSED:
        return result
    toy.edit(step.vcpu, "nested", flags=1)
    return replace(result, outcome="entered")


def forgets_a_register(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    if step.kind == "run":
        toy.edit(step.vcpu, "regs", rsp=8)
    return result


def remembers_order(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    kinds = [each.kind for each in toy.done]
    late = [kind for kind in kinds if kind in ("set-regs", "set-sregs")] == [
        "set-sregs",
        "set-regs",
    ]
    return replace(result, outcome="exit 0") if step.kind == "run" and late else result


def smm_shows(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    if step.kind == "rsm":
        toy.edit(step.vcpu, "regs", rax=1)
    return result


def smm_shows_later(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    late = step.kind == "run" and session_step("rsm") in toy.done
    return replace(result, outcome="exit 0") if late else result


def restores_less(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    if step.kind == "restore":
        toy.edit(step.vcpu, "vmcs12", launch_state=0)
    return result


def restores_nothing(_toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    return replace(result, errno=-22) if step.kind == "restore" else result


def loses_a_field(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    if step.kind == "set-nested-state":
        toy.edit(step.vcpu, "vmcs12", host_rip=5)
    return result


def loses_a_pending_entry(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    if step.kind == "set-nested-state":
        toy.edit(step.vcpu, "nested", flags=dict(toy.views[step.vcpu].nested)["flags"] & ~2)
    return result


def tells_an_older_rip(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    if step.kind == "run-immediate":
        toy.edit(step.vcpu, "vmcs12", guest_rip=5)
    return result


def has_no_effect(kind: str) -> Fault:
    """Return a KVM in which an instruction that is done leaves the vCPU as it was."""

    def fault(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
        if step.kind == kind:
            toy.views[step.vcpu] = toy.before
        return result

    return fault


def goes_on_otherwise(_toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    return replace(result, outcome="exit 0") if step.kind == "run" and step.vcpu else result


def has_modes(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
    assert toy.world is not None
    other = step.kind == "run" and toy.world.parameter("unrestricted_guest")
    return replace(result, outcome="exit 0") if other else result


@pytest.mark.parametrize(
    ("oracle", "case", "fault"),
    [
        ("session.no-warn", "plain", warns),
        ("session.no-warn", "plain", dies),
        ("session.l2-never-emulated", "plain", emulates),
        ("session.triple-fault", "broken", goes_on),
        ("session.triple-fault", "mended", ends_early),
        ("session.ioctl-accepts", "mended", refuses),
        ("session.instruction-errors", "plain", forgets_errors),
        ("session.entry-rejects-invalid", "refused", enters),
        ("session.run-changes-nothing", "idle", forgets_a_register),
        ("session.order", "ioctls", remembers_order),
        ("session.smm-round-trip", "plain", smm_shows),
        ("session.smm-round-trip", "plain", smm_shows_later),
        ("session.nested-state-round-trip", "plain", restores_less),
        ("session.nested-state-round-trip", "plain", restores_nothing),
        ("session.nested-state-round-trip", "plain", goes_on_otherwise),
        ("session.nested-state-reads-back", "restored", restores_less),
        ("session.nested-state-reads-back", "restored", loses_a_field),
        ("session.nested-state-reads-back", "restored", loses_a_pending_entry),
        ("session.nested-state-current", "told", tells_an_older_rip),
        *(
            ("session.instruction-effects", "effects", has_no_effect(kind))
            for kind in ("vmxon", "vmptrld", "vmwrite", "vmread", "vmclear", "vmlaunch")
        ),
        ("session.two-modes-agree", "plain", has_modes),
    ],
)
def test_a_planted_fault_is_found(oracle: str, case: str, fault: Fault) -> None:
    assert oracle in found(CASES[case], fault)


def test_each_oracle_has_a_sentence_and_a_fault() -> None:
    assert {oracle.name for oracle in (*ALWAYS, *OTHERS)} == set(BREACHES)
    assert all(len(oracle.sentence) > 20 and oracle.source for oracle in (*ALWAYS, *OTHERS))


def test_what_is_emulated_by_design_is_none_of_l2_s_when_it_is_invalid() -> None:
    by_design = session_step("l2-exit", exit="io")
    valid = SessionCase(RESTRICTED, (*L2, by_design))
    broken = SessionCase(RESTRICTED, (*L2, BROKEN, by_design))

    def fault(_toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
        here = step == by_design
        return replace(result, emulated=here, outcome="l2" if here else result.outcome)

    assert "session.l2-never-emulated" not in found(valid, fault)
    assert "session.l2-never-emulated" in found(broken, fault)


@pytest.mark.parametrize(
    ("part", "flip"),
    [("flags", 0x100), ("vmx_flags", 1), ("preemption_timer_deadline", 5), ("size", 1)],
)
def test_what_means_nothing_need_not_be_read_back(part: str, flip: int) -> None:
    step = session_step("set-nested-state", part=part, flip=flip)

    def fault(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
        if step.kind == "set-nested-state":
            toy.edit(step.vcpu, "nested", flags=1, vmx_flags=0, preemption_timer_deadline=0)
        return result

    assert "session.nested-state-reads-back" not in found(in_l2(*steps("save"), step), fault)


def test_where_a_model_ends_is_no_finding() -> None:
    def fault(_toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
        return replace(result, stopped="not modelled: INIT") if step.kind == "run" else result

    assert found(CASES["plain"], fault) == set()


def test_another_kernel_has_nothing_to_say() -> None:
    case = replace(CASES["plain"], world=replace(RESTRICTED, kernel="6.1"))
    assert found(case, dies) == set()


PENDING = (*steps("vmxon", "vmptrld", "prepare", "vmlaunch"), session_step("run"))
INVALID = (*PENDING[:-1], BROKEN, PENDING[-1])
BUG_ON = "arch/x86/kvm/vmx/vmx.c:1"
LEAVING = "arch/x86/kvm/vmx/nested.c:1"


def warns_where_pending(warning: str, errno: int) -> Fault:
    def fault(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
        if step.kind == "vmlaunch":
            toy.edit(step.vcpu, "nested", flags=3)
        return StepResult(errno, warnings=(warning,)) if step.kind == "run" else result

    return fault


@pytest.mark.parametrize(
    ("made", "warning", "errno", "known"),
    [
        (INVALID, BUG_ON, -5, True),
        (INVALID, BUG_ON, 0, False),
        (INVALID, "arch/x86/kvm/mmu/mmu.c:1", -5, False),
        (INVALID, LEAVING, -5, False),
        (PENDING, BUG_ON, -5, False),
        (PENDING, LEAVING, 0, False),
        ((*PENDING[:-1], session_step("smi"), PENDING[-1]), LEAVING, 0, False),
    ],
)
def test_a_warning_is_known_only_by_what_brings_it_about(
    made: tuple[SessionStep, ...], warning: str, errno: int, known: bool
) -> None:
    fault = warns_where_pending(warning, errno)
    assert ("session.no-warn" not in found(SessionCase(RESTRICTED, made), fault)) == known


def test_what_is_warned_of_while_a_vcpu_is_read_counts() -> None:
    class Late(Toy):
        """Reading makes it warn."""

        def late_warnings(self) -> tuple[str, ...]:
            """Warn."""
            return ("arch/x86/kvm/x86.c:1",)

    played = play(Stage(Late(good)), CASES["plain"])
    assert all(moment.result.warnings for moment in played.moments)
    assert "session.no-warn: WARN arch/x86/kvm/x86.c" in breaches(played)


def in_l2(*made: SessionStep) -> SessionCase:
    return SessionCase(RESTRICTED, (*L2, *made))


def refuses_the_last(case: SessionCase, *, with_errno: bool = True) -> Fault:
    refusal = StepResult(-22) if with_errno else StepResult(outcome="refused")

    def fault(toy: Toy, _step: SessionStep, result: StepResult) -> StepResult:
        return refusal if len(toy.done) == len(case.steps) else result

    return fault


TAKEN = {
    "regs": (session_step("set-regs", register="rflags", value=0x20000),),
    "cr0": (session_step("set-sregs", register="cr0", flip=0x4_0000),),
    "cr3": (session_step("set-sregs", register="cr3", flip=1 << 35),),
    "cr4": (session_step("set-sregs", register="cr4", flip=4),),
    "cr8": (session_step("set-sregs", register="cr8", flip=3),),
    "efer": (session_step("set-sregs", register="efer", flip=1),),
    "segment": (session_step("set-segment", segment="tr", part="type", value=1),),
    "cs.l": (session_step("set-segment", segment="cs", part="l", value=0),),
    "sysenter": (session_step("set-msr", msr="IA32_SYSENTER_EIP", flip=1 << 46),),
    "pat": (session_step("set-msr", msr="IA32_PAT", flip=6),),
    "smbase": (session_step("set-msr", msr="IA32_SMBASE", flip=1 << 20),),
    "shadow": (session_step("set-events", part="interrupt.shadow", value=3),),
    "exception": (session_step("set-events", part="exception.injected", value=1),),
    "triple fault": (session_step("set-events", part="triple_fault_pending", value=1),),
    "smi": (session_step("set-events", part="smi.pending", value=1),),
    "halted": (session_step("set-mp-state", state="halted"),),
    "init": (session_step("set-mp-state", state="init-received"),),
    "nmi": (session_step("nmi"),),
    "nested state": (*steps("save"), session_step("set-nested-state")),
    "restore": steps("save", "restore"),
}
REFUSED_BY_ITSELF = {
    "cr0.pg": (session_step("set-sregs", register="cr0", flip=1 << 31),),
    "cr3 beyond": (session_step("set-sregs", register="cr3", flip=1 << 60),),
    "cr4 reserved": (session_step("set-sregs", register="cr4", flip=1 << 40),),
    "efer.lme": (session_step("set-sregs", register="efer", flip=1 << 8),),
    "not canonical": (session_step("set-msr", msr="IA32_SYSENTER_ESP", flip=1 << 63),),
    "flags": (session_step("set-events", part="flags", value=1 << 9),),
    "vector": (
        session_step("set-events", part="exception.injected", value=1),
        session_step("set-events", part="exception.nr", value=2),
    ),
    "cpuid": (session_step("set-cpuid"),),
    "init with smi": (
        session_step("set-events", part="smi.pending", value=1),
        session_step("set-mp-state", state="init-received"),
    ),
    "edited nested state": (*steps("save"), session_step("set-nested-state", flip=1)),
    "older state": steps("save", "run-immediate", "restore"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_an_ioctl_that_is_legal_by_itself_must_be_taken(name: str) -> None:
    case = in_l2(*TAKEN[name])
    assert "session.ioctl-accepts" not in found(case, good)
    for with_errno in (True, False):
        fault = refuses_the_last(case, with_errno=with_errno)
        assert "session.ioctl-accepts" in found(case, fault)


@pytest.mark.parametrize("name", REFUSED_BY_ITSELF)
def test_an_ioctl_may_be_refused_for_what_it_sets(name: str) -> None:
    case = in_l2(*REFUSED_BY_ITSELF[name])
    assert "session.ioctl-accepts" not in found(case, refuses_the_last(case))


def test_outside_l2_an_ioctl_may_be_refused() -> None:
    case = SessionCase(RESTRICTED, (*steps("vmxon"), *TAKEN["regs"]))
    assert "session.ioctl-accepts" not in found(case, refuses_the_last(case))


def test_a_vm_that_has_died_refuses_all() -> None:
    ioctl = session_step("set-msr", msr="IA32_SMBASE")
    case = in_l2(session_step("smi"), ioctl)

    def dies_of(*kinds: str) -> Fault:
        def fault(_toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
            return StepResult(-5) if step.kind in kinds else result

        return fault

    class Dead(Toy):
        """SMRAM is in no memory: SMM is never entered."""

        def edit(self, vcpu: int, part: str, **values: int) -> None:
            """Leave out that SMM begins."""
            if "smi__smm" not in values:
                super().edit(vcpu, part, **values)

    def refused(*kinds: str) -> bool:
        played = play(Stage(Dead(dies_of(*kinds))), case)
        return any(each.startswith("session.ioctl-accepts") for each in breaches(played))

    assert refused("set-msr")
    assert not refused("smi", "set-msr")


def test_an_enlightened_vmcs_has_another_revision() -> None:
    def fault(_toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
        return replace(result, outcome="vmfail-invalid") if step.kind == "vmptrld" else result

    plain = SessionCase(RESTRICTED, steps("vmxon", "vmptrld"))
    written = SessionCase(RESTRICTED, steps("vmxon", "prepare-enlightened", "vmptrld"))
    assert "session.instruction-errors" in found(plain, fault)
    assert "session.instruction-errors" not in found(written, fault)
