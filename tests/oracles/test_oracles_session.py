# SPDX-License-Identifier: GPL-2.0-only
"""The oracles of sessions: a KVM that does as it must, and one planted fault for each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import SessionCase
from nvmxfuzz.inputs.session_steps import MSRS, SessionStep, session_step
from nvmxfuzz.inputs.world import World, world_on
from nvmxfuzz.kvm.guest_state_valid import guest_segments_valid
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.session.oracles import ALWAYS, BREACHES, OTHERS, breaches
from nvmxfuzz.oracles.session.play import Stage, play
from nvmxfuzz.oracles.session.seen import is_executed, segments
from nvmxfuzz.oracles.session.state import State
from nvmxfuzz.oracles.session.witness import PLACE_ADDRESSES, StepResult, VcpuView

KERNEL = "6.12"
NO_POINTER = (1 << 64) - 1
CODE = {"type": 11, "s": 1, "dpl": 0, "present": 1, "l": 1, "g": 1, "selector": 8}
DATA = {"type": 3, "s": 1, "dpl": 0, "present": 1, "db": 1, "g": 1, "selector": 16}
TSS = {"type": 11, "present": 1, "selector": 24, "limit": 0x67}
PARTS = ("base", "limit", "selector", "type", "present", "dpl", "db", "s", "l", "g", "avl")
SEGMENTS = {"cs": CODE, **dict.fromkeys(("ss", "ds", "es", "fs", "gs"), DATA), "tr": TSS, "ldt": {}}
EVENTS = ("exception.injected", "nmi.pending", "smi.pending", "smi.smm", "interrupt.shadow")
REFUSED = "vmfail-valid 7"


def fresh_view() -> VcpuView:
    """Return a vCPU about to execute VMXON."""
    sregs = {f"{name}.{part}": 0 for name in SEGMENTS for part in (*PARTS, "unusable")}
    for name, parts in SEGMENTS.items():
        sregs |= {f"{name}.{part}": value for part, value in parts.items()}
    sregs |= {"ldt.unusable": 1, "cr0": 0x8005_0033, "cr2": 0, "cr3": 0x41000, "cr4": 0x2020}
    sregs |= {"efer": 0x500, "gdt_base": 0}
    profile = load_profile("kvm-6.12-skylake-x")
    msrs = {name: profile.msrs[index] for name, index in MSRS.items() if index in profile.msrs}
    msrs["IA32_FEATURE_CONTROL"] = 5
    return VcpuView(
        regs=tuple(sorted({"rip": 0x1000, "rflags": 2, "rax": 0}.items())),
        sregs=tuple(sorted(sregs.items())),
        events=tuple((name, 0) for name in sorted(EVENTS)),
        mp_state=0,
        msrs=tuple(sorted(msrs.items())),
        nested=(
            ("flags", 0),
            ("smm_flags", 0),
            ("vmcs12_pa", NO_POINTER),
            ("vmxon_pa", NO_POINTER),
        ),
    )


def edited(view: VcpuView, part: str, **values: int) -> VcpuView:
    """Return a view with values of one part otherwise; `__` stands for a dot."""
    words = dict(getattr(view, part)) | {key.replace("__", "."): at for key, at in values.items()}
    changed: dict[str, Any] = {part: tuple(sorted(words.items()))}
    return replace(view, **changed)


Fault: TypeAlias = Callable[["Toy", SessionStep, StepResult], StepResult]


class Toy:
    """A KVM of few words that keeps every promise; `fault` may replace what a step comes to."""

    kernel = KERNEL
    name = f"kvm-{KERNEL}"

    def __init__(self, fault: Fault) -> None:
        """Be faulty in one way."""
        self.fault = fault
        self.world: World | None = None
        self.views: list[VcpuView] = []
        self.slots: dict[str, VcpuView] = {}
        self.done: list[SessionStep] = []

    def load(self, world: World) -> str:
        """Take any world."""
        self.world = world
        self.renew()
        return ""

    def renew(self) -> None:
        """Have two new vCPUs."""
        self.views, self.slots, self.done = [fresh_view(), fresh_view()], {}, []

    def read(self, vcpu: int) -> VcpuView:
        """Return a vCPU."""
        return self.views[vcpu]

    def late_warnings(self) -> tuple[str, ...]:
        """Warn of nothing."""
        return ()

    def do(self, step: SessionStep) -> StepResult:
        """Make a step."""
        self.done.append(step)
        return self.fault(self, step, self._do(step))

    def edit(self, vcpu: int, part: str, **values: int) -> None:
        """Change what is seen of a vCPU."""
        self.views[vcpu] = edited(self.views[vcpu], part, **values)

    def _do(self, step: SessionStep) -> StepResult:
        state = State(self.views[step.vcpu])
        if step.kind == "smi":
            self.edit(step.vcpu, "events", smi__smm=1)
            return StepResult(outcome="smm", left="intr")
        if step.kind == "rsm":
            self.edit(step.vcpu, "events", smi__smm=0)
            return StepResult(outcome="l2" if state.view.in_l2 else "l1", left="intr")
        if step.kind in ("run", "l2-exit") or is_executed(step):
            return StepResult(outcome=self._ran(step, state), left="intr")
        return self._ioctl(step)

    def _ran(self, step: SessionStep, state: State) -> str:
        if not state.view.in_l2:
            return self._l1(step, state) if is_executed(step) else "l1"
        words = state.sregs["cr0"], state.regs["rflags"]
        if not guest_segments_valid(segments(state), *words):
            self.edit(step.vcpu, "nested", flags=0)
            self.views[step.vcpu] = replace(
                self.views[step.vcpu], sregs=fresh_view().sregs, regs=fresh_view().regs
            )
            return "triple-fault"
        if step.kind == "l2-exit" and step.chosen("exit") == "external-interrupt":
            return "l2"
        self.edit(step.vcpu, "nested", flags=0)
        return "exit 18"

    def _l1(self, step: SessionStep, state: State) -> str:
        if step.kind == "vmxon":
            if state.in_vmx:
                return "vmfail-valid 15"
            self.edit(step.vcpu, "nested", vmxon_pa=PLACE_ADDRESSES[step.chosen("region")])
        elif not state.in_vmx:
            return "fault 6"
        elif step.kind == "vmptrld":
            self.edit(step.vcpu, "nested", vmcs12_pa=PLACE_ADDRESSES[step.chosen("region")])
        elif step.kind == "vmlaunch":
            if state.vmcs12.get("pin_based_vm_exec_control") == 0xFFFF_FFFF:
                return REFUSED
            self.edit(step.vcpu, "nested", flags=1)
            self.edit(step.vcpu, "vmcs12", launch_state=1)
            return "entered"
        elif step.kind == "vmwrite":
            self.edit(step.vcpu, "vmcs12", **{step.chosen("field"): step.number("value")})
        return "done"

    def _ioctl(self, step: SessionStep) -> StepResult:
        match step.kind:
            case "prepare":
                profile = load_profile("kvm-6.12-skylake-x")
                fields = base("guest-64", profile).vmcs.items()
                self.edit(step.vcpu, "vmcs12", **{at: word for at, word in fields.items() if word})
                return StepResult(outcome="done", left="intr")
            case "set-segment":
                name = f"{step.chosen('segment')}__{step.chosen('part')}"
                self.edit(step.vcpu, "sregs", **{name: step.number("value")})
            case "set-sregs":
                name = step.chosen("register")
                self.edit(step.vcpu, "sregs", **{name: step.number("flip")})
            case "set-events":
                parts = {step.chosen("part").replace(".", "__"): step.number("value")}
                self.edit(step.vcpu, "events", **parts)
            case "set-regs":
                self.edit(step.vcpu, "regs", **{step.chosen("register"): step.number("value")})
            case "save":
                self.slots[step.chosen("slot")] = self.views[step.vcpu]
            case "restore" if step.chosen("slot") in self.slots:
                self.views[step.vcpu] = self.slots[step.chosen("slot")]
        return StepResult()


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
        ("session.order", "ioctls", remembers_order),
        ("session.smm-round-trip", "plain", smm_shows),
        ("session.smm-round-trip", "plain", smm_shows_later),
        ("session.nested-state-round-trip", "plain", restores_less),
        ("session.nested-state-round-trip", "plain", restores_nothing),
        ("session.nested-state-round-trip", "plain", goes_on_otherwise),
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
