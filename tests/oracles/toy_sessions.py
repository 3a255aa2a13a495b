# SPDX-License-Identifier: GPL-2.0-only
"""A KVM of few words that keeps every promise of a session, for faults to be planted in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.session_steps import MSRS, SessionStep
from nvmxfuzz.inputs.world import World
from nvmxfuzz.kvm.guest_state_valid import guest_segments_valid
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.session.effects import OF_L2
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
    sregs |= {"efer": 0x500, "gdt.base": 0, "idt.base": 0}
    profile = load_profile("kvm-6.12-skylake-x")
    msrs = {name: profile.msrs[index] for name, index in MSRS.items() if index in profile.msrs}
    msrs["IA32_FEATURE_CONTROL"] = 5
    return VcpuView(
        regs=tuple(sorted({"rip": 0x1000, "rsp": 0, "rflags": 2, "rax": 0}.items())),
        sregs=tuple(sorted(sregs.items())),
        events=tuple((name, 0) for name in sorted(EVENTS)),
        mp_state=0,
        msrs=tuple(sorted(msrs.items())),
        nested=(
            ("flags", 0),
            ("preemption_timer_deadline", 0),
            ("smm_flags", 0),
            ("vmcs12_pa", NO_POINTER),
            ("vmx_flags", 0),
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
        self.before = fresh_view()

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
        self.before = self.views[step.vcpu]
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
            self._leave(step.vcpu)
            return "triple-fault"
        if step.kind == "l2-exit" and step.chosen("exit") == "external-interrupt":
            return "l2"
        self._leave(step.vcpu)
        return "exit 18"

    def _leave(self, vcpu: int) -> None:
        """Go on with L1."""
        self.edit(vcpu, "nested", flags=0)
        fresh = fresh_view()
        self.views[vcpu] = replace(self.views[vcpu], sregs=fresh.sregs, regs=fresh.regs)

    def _l1(self, step: SessionStep, state: State) -> str:
        if step.kind == "vmxon":
            if state.in_vmx:
                return "vmfail-valid 15"
            self.edit(step.vcpu, "nested", vmxon_pa=PLACE_ADDRESSES[step.chosen("region")])
        elif not state.in_vmx:
            return "fault 6"
        elif step.kind == "vmptrld":
            self.edit(step.vcpu, "nested", vmcs12_pa=PLACE_ADDRESSES[step.chosen("region")])
        elif step.kind in ("vmlaunch", "vmresume"):
            if state.vmcs12.get("pin_based_vm_exec_control") == 0xFFFF_FFFF:
                return REFUSED
            self.edit(step.vcpu, "nested", flags=1)
            self.edit(step.vcpu, "vmcs12", launch_state=1)
            words = {there: state.vmcs12.get(name, 0) for name, there in OF_L2.items()}
            for part in ("regs", "sregs"):
                known = dict(getattr(self.views[step.vcpu], part)).keys()
                self.edit(step.vcpu, part, **{at: words[at] for at in words if at in known})
            return "entered"
        elif step.kind == "vmclear" and PLACE_ADDRESSES[step.chosen("region")] == state.current:
            self.edit(step.vcpu, "nested", vmcs12_pa=NO_POINTER)
        elif step.kind == "vmread":
            self.edit(step.vcpu, "regs", rax=state.vmcs12.get(step.chosen("field"), 0))
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
            case "set-nested-state":
                self._set_nested_state(step)
        return StepResult()

    def _set_nested_state(self, step: SessionStep) -> None:
        """Take the header, edited in one part, and the VMCS."""
        view = self.views[step.vcpu]
        kept = self.slots.get(step.chosen("slot"), view)
        nested, part = dict(kept.nested), step.chosen("part")
        if part in nested:
            nested[part] = nested[part] & ~step.number("unset") ^ step.number("flip")
        self.views[step.vcpu] = replace(
            view, nested=tuple(sorted(nested.items())), vmcs12=kept.vmcs12
        )
