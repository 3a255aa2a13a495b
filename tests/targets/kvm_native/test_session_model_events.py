# SPDX-License-Identifier: GPL-2.0-only
"""SMM in all modes, INIT, SIPI, NMIs and events of userspace: the model and KVM do the same."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Final

import pytest

from nvmxfuzz.inputs.session_steps import SessionStep
from nvmxfuzz.inputs.session_steps import session_step as step
from nvmxfuzz.inputs.world import world_on
from nvmxfuzz.oracles.session.agreement import compare_session
from nvmxfuzz.targets.kvm_native.session import KvmSessions
from nvmxfuzz.targets.session_model import ModelSessions

L2: Final = (step("vmxon"), step("vmclear"), step("vmptrld"), step("prepare"), step("vmlaunch"))
RUN, SMI, RSM, NMI, INIT = (step(kind) for kind in ("run", "smi", "rsm", "nmi", "init"))
BEGUN: Final = step("l2-exit", exit="external-interrupt")
"""L2 runs, and L1 hears nothing of it."""
OTHER: Final = 1
"""The vCPU that an INIT leaves waiting for a SIPI."""
ON_REAL_MODE: Final = (("unrestricted_guest", 0),)


def events(part: str, value: int) -> SessionStep:
    """Return KVM_SET_VCPU_EVENTS."""
    return step("set-events", part=part, value=value)


def segment(name: str, part: str, value: int) -> SessionStep:
    """Return KVM_SET_SREGS of a segment."""
    return step("set-segment", segment=name, part=part, value=value)


def vmwrite(field: str, value: int) -> SessionStep:
    """Return VMWRITE."""
    return step("vmwrite", field=field, value=value)


NMI_EXITING: Final = 0x1F
MONITOR_TRAP_FLAG: Final = 0x8C01_E172
PATHS: Final[dict[str, tuple[SessionStep, ...]]] = {
    "smm-from-l1": (step("vmxon"), SMI, RUN, RSM, step("vmptrst"), RUN),
    "smm-from-l2": (*L2, RUN, step("vmresume"), RUN, SMI, RSM, RUN),
    "smm-with-a-long-flag": (segment("cs", "avl", 0x1E), SMI, RSM, RUN),
    "vmfail-behind-rsm": (*L2, SMI, RSM, step("l2-exit", exit="vmfail")),
    "rsm-to-an-l2-with-the-monitor-trap-flag": (
        *L2[:4],
        vmwrite("cpu_based_vm_exec_control", MONITOR_TRAP_FLAG),
        L2[4],
        BEGUN,
        SMI,
        RSM,
        BEGUN,
        RUN,
    ),
    "rsm-to-l1-behind-an-l2-with-the-monitor-trap-flag": (
        *L2[:4],
        vmwrite("cpu_based_vm_exec_control", MONITOR_TRAP_FLAG),
        L2[4],
        step("l2-exit", exit="cpuid"),
        SMI,
        RSM,
        step("vmresume"),
        RUN,
    ),
    "real-mode-and-back": (
        step("vmptrld", mode="real"),
        RUN,
        step("vmxon", mode="real"),
        step("vmxon"),
    ),
    "rsm-behind-a-soft-exception": (
        step("invept", type=3),
        segment("fs", "selector", 0x25),
        events("exception.nr", 3),
        RSM,
    ),
    "exception-in-real-mode": (
        INIT,
        segment("cs", "base", 0xF0000),
        events("exception.nr", 6),
        RUN,
    ),
    "init-of-l1": (step("set-regs", register="rbx", value=7), INIT, RUN),
    "init-in-root-operation": (step("vmxon"), INIT, RUN, step("vmxoff"), RUN),
    "init-in-smm": (SMI, INIT, RUN, RSM, RUN),
    "init-of-l2": (*L2, BEGUN, INIT, RUN, step("vmxoff"), RUN),
    "init-before-l2-runs": (*L2, INIT, RUN, RUN),
    "sipi": (
        step("init", OTHER),
        step("run", OTHER),
        step("sipi", OTHER, vector=0x10),
        step("run", OTHER),
    ),
    "sipi-that-nobody-waits-for": (step("sipi", vector=0x10), RUN),
    "mp-state-sipi": (step("set-mp-state", state="sipi-received"), RUN, RUN),
    "mp-state-halted": (step("set-mp-state", state="halted"), RUN, NMI, RUN, RUN),
    "mp-state-uninitialized": (step("set-mp-state", state="uninitialized"), RUN, INIT, RUN),
    "nmi-of-l1": (NMI, NMI, RUN, NMI, NMI, RUN, RUN),
    "nmi-masked": (events("nmi.masked", 1), NMI, RUN, events("nmi.masked", 0), RUN),
    "nmi-in-smm": (SMI, NMI, RUN, RSM, RUN),
    "nmi-of-l2": (*L2, BEGUN, NMI, BEGUN, RUN),
    "nmi-exits": (
        *L2[:4],
        vmwrite("pin_based_vm_exec_control", NMI_EXITING),
        step("vmlaunch"),
        BEGUN,
        NMI,
        RUN,
        RUN,
    ),
    "exception-of-userspace-that-l1-wants": (
        *L2[:4],
        vmwrite("exception_bitmap", 1 << 6),
        step("vmlaunch"),
        events("exception.nr", 6),
        events("exception.pending", 1),
        RUN,
        RUN,
    ),
    "interrupt-of-userspace": (events("interrupt.injected", 1), segment("ds", "avl", 1), RUN),
    "interrupt-in-l2": (*L2, RUN, step("vmresume"), events("interrupt.injected", 1), SMI, RSM, RUN),
    "exception-on-exception": (
        events("exception.nr", 13),
        events("exception.injected", 1),
        step("vmptrld"),
        RUN,
    ),
    "flags-that-do-not-exist": (events("flags", 0x80), events("flags", 0), RUN),
    "triple-fault-of-an-invalid-l2": (
        *L2,
        RUN,
        step("vmresume"),
        segment("ss", "type", 9),
        events("triple_fault_pending", 1),
        RUN,
    ),
    "halted-beside-events": (
        *L2,
        RUN,
        step("vmresume"),
        step("l2-exit", exit="hlt"),
        RUN,
        events("nmi.pending", 1),
        RUN,
    ),
    "code-that-is-no-memory": (INIT, RUN, segment("cs", "db", 0xA6), NMI, RUN),
}


@cache
def _model(kernel: str, parameters: tuple[tuple[str, int], ...]) -> ModelSessions:
    model = ModelSessions(kernel)
    assert model.load(replace(world_on("skylake-x", kernel), parameters=parameters)) == ""
    return model


@pytest.mark.parametrize("parameters", [(), ON_REAL_MODE], ids=["unrestricted", "real-mode"])
def test_events_are_the_same(
    sessions: KvmSessions, parameters: tuple[tuple[str, int], ...]
) -> None:
    model = _model(sessions.kernel, parameters)
    world = replace(world_on("skylake-x", sessions.kernel), parameters=parameters)
    assert sessions.load(world) == ""
    ended = {}
    for name, path in PATHS.items():
        compared = compare_session(path, model, sessions)
        assert compared.finding is None, (name, compared.finding)
        if compared.ended:
            ended[name] = compared.ended
    assert ended == {}


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_the_model_of_events_knows_who_gets_an_nmi(kernel: str) -> None:
    model = _model(kernel, ())
    outcomes = {}
    for name in ("nmi-of-l2", "nmi-exits", "init-of-l2"):
        model.renew()
        outcomes[name] = [model.do(each).outcome for each in PATHS[name]][-2]
    assert outcomes == {"nmi-of-l2": "l2", "nmi-exits": "exit 0", "init-of-l2": "done"}
