# SPDX-License-Identifier: GPL-2.0-only
"""The points of the harness for sessions: what came of each kind of step, and who ran then.

Also what an instruction came to in another mode than 64-bit code at CPL 0, which is another case
altogether, and what the nested state says is pending: what seldom is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final

from nvmxfuzz.campaign.config_sites import SiteVerdicts
from nvmxfuzz.inputs.case import SESSION_KERNELS, SessionCase
from nvmxfuzz.inputs.session_steps import EXITS, STEP_BY_NAME, STEP_KINDS, SessionStep, StepKind
from nvmxfuzz.oracles.session.play import Moment, Played, Stage, play
from nvmxfuzz.oracles.session.witness import VcpuView
from nvmxfuzz.targets.session_model import ModelSessions

_WHO: Final = ("L1", "L2", "SMM", "SMM over L2")
_RAN: Final = ("l1", "l2", "smm", "triple-fault", "exit", "exit on entry", "failed")
_ENTRY: Final = ("vmfail-valid 7", "vmfail-valid 8", "vmfail-valid 26", "exit on entry", "entered")
_BY_KIND: Final[Mapping[str, tuple[str, ...]]] = {
    "vmxon": ("vmfail-valid 15",),
    "vmclear": ("vmfail-valid 2", "vmfail-valid 3"),
    "vmptrld": ("vmfail-valid 9", "vmfail-valid 10", "vmfail-valid 11"),
    "vmread": ("vmfail-valid 12",),
    "vmwrite": ("vmfail-valid 12", "vmfail-valid 13"),
    "vmlaunch": ("vmfail-valid 4", *_ENTRY),
    "vmresume": ("vmfail-valid 5", *_ENTRY),
    "invept": ("vmfail-valid 28",),
    "invvpid": ("vmfail-valid 28",),
}
"""Endings that an instruction has beside those of all."""
_OF_ALL: Final = ("done", "vmfail-invalid", "fault 6", "fault 13")
_OPERANDS: Final = ("fault 12", "fault 14")
_RUNNING: Final = ("run", "l2-exit", "l2-other-exit", "smi", "rsm")


def _endings(kind: StepKind, who: str) -> tuple[str, ...]:
    if kind.name in _RUNNING:
        return (*_RAN, "entered", "fault 6")
    if kind.actor != "l1":
        writes = ("unbacked",) if kind.name in ("memory-write", "smram-write") else ()
        return ("", "failed", *(("refused",) if kind.name in _REFUSING else ()), *writes)
    if who == "L2":
        return ("exit", "triple-fault")
    if who != "L1":
        return ("fault 6",)
    operand = any(operand.name == "operand" for operand in kind.operands)
    return (*_OF_ALL, *_BY_KIND.get(kind.name, ()), *(_OPERANDS if operand else ()))


_PENDING: Final[Mapping[str, tuple[str, int]]] = {
    "VM entry": ("flags", 2),
    "MTF exit": ("flags", 8),
    "preemption timer": ("vmx_flags", 1),
    "L2 behind SMM": ("smm_flags", 1),
    "VMX operation behind SMM": ("smm_flags", 2),
}
"""A flag of the nested state by what it stands for."""

_REFUSING: Final = ("set-msr", "restore", "set-nested-state")


def _sites() -> Iterator[str]:
    for kind in STEP_KINDS:
        for who in _WHO:
            yield from (f"{who}: {kind.name} {ending}".rstrip() for ending in _endings(kind, who))
    for name in EXITS:
        yield from (f"exit {name}: {ending}" for ending in ("l2", "exit"))
    for kind in STEP_KINDS:
        for mode in _modes(kind)[1:]:
            yield from (f"{mode}: {kind.name} {ending}" for ending in _endings(kind, "L1"))
    for name in _PENDING:
        yield from (f"pending: {name} after {kind.name}" for kind in STEP_KINDS)


def _modes(kind: StepKind) -> tuple[str, ...]:
    return next((each.choices for each in kind.operands if each.name == "mode"), ())


SESSION_SITES: Final = tuple(_sites())
"""One for each kind of step, who was running and what came of it; and for each exit of L2."""

_INDEX: Final = {site: number for number, site in enumerate(SESSION_SITES)}
_ALL: Final = (1 << len(SESSION_SITES)) - 1


@cache
def _stage(kernel: str) -> Stage:
    return Stage(ModelSessions(kernel))


def model_stage(case: SessionCase) -> Stage:
    """Return the model of the kernel of a session; of the usual one where there is none."""
    kernel = case.world.kernel
    return _stage(kernel if kernel in SESSION_KERNELS else SESSION_KERNELS[0])


def played_on_model(case: SessionCase) -> Played:
    """Play a session on the model; one on a kernel that has no model of sessions is not played."""
    return play(model_stage(case), case)


def session_verdicts(_case: SessionCase, played: Played) -> SiteVerdicts:
    """Return which sites a session shows."""
    fired = dict.fromkeys(site for moment in played.moments for site in _fired(moment))
    return SiteVerdicts(_ALL, tuple(_INDEX[site] for site in fired if site in _INDEX))


def _fired(moment: Moment) -> Iterator[str]:
    step, ending = moment.step, _ending(moment)
    who = _who(moment.before)
    yield f"{who}: {step.kind} {ending}".rstrip()
    if who == "L1" and _modes(STEP_BY_NAME[step.kind]):
        yield f"{step.chosen('mode')}: {step.kind} {ending}"
    nested = dict(moment.after.nested)
    for name, (word, flag) in _PENDING.items():
        if nested.get(word, 0) & flag:
            yield f"pending: {name} after {step.kind}"
    if step.kind == "l2-exit" and moment.before.in_l2:
        yield f"exit {_exit_of(step)}: {ending}"


def _exit_of(step: SessionStep) -> str:
    return step.chosen("exit")


def _who(view: VcpuView) -> str:
    if view.in_smm:
        return "SMM over L2" if dict(view.nested).get("smm_flags") else "SMM"
    return "L2" if view.in_l2 else "L1"


def _ending(moment: Moment) -> str:
    result = moment.result
    if result.errno:
        return "failed"
    if result.outcome.startswith("exit "):
        return "exit on entry" if "qualification" in result.outcome else "exit"
    return result.outcome
