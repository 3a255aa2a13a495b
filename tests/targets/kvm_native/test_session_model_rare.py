# SPDX-License-Identifier: GPL-2.0-only
"""What one random session in ten thousand or fewer does: the model once did something else."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from nvmxfuzz.inputs.session_steps import session_step as step
from nvmxfuzz.inputs.world import world_on
from nvmxfuzz.oracles.session.agreement import compare_session
from nvmxfuzz.targets.kvm_native.session import KvmSessions
from nvmxfuzz.targets.session_model import ModelSessions
from tests.targets.kvm_native.test_session_model_paths import CURRENT, L2, Path, written

_NO_UNRESTRICTED: Final = {"unrestricted_guest": 0}
_EMULATED: Final = "not modelled: L1 is emulated"
_OTHER_SMM: Final = (step("smi"), step("smi", vcpu=1))


def _segment(name: str, part: str, value: int) -> Path:
    return (step("set-segment", segment=name, part=part, value=value),)


SESSIONS: Final[dict[str, tuple[dict[str, int], Path, str]]] = {
    "RSM has entered L2 when the emulator finds no mode to go on in": (
        {},
        (
            *L2,
            step("smi"),
            step("smram-write", field="rflags", flip=0x20000),
            step("vmclear", region="vmcs-2"),
            step("rsm"),
        ),
        "",
    ),
    "the shadow VMCS of a vmcs12 that was restored in SMM is written there": (
        {},
        (
            *L2,
            *_OTHER_SMM,
            step("set-nested-state", slot="b", part="smm_flags", flip=0x400000),
            step("rsm"),
            step("smi"),
        ),
        "",
    ),
    "a granularity of 2 shrinks the stack in real-address mode": (
        _NO_UNRESTRICTED,
        (
            step("set-events", part="smi.latched_init", value=1),
            step("prepare"),
            *_segment("ss", "g", 2),
            written("guest_idtr_base", 0),
        ),
        "",
    ),
    "of the width of a stack the emulator takes one bit": (
        _NO_UNRESTRICTED,
        (
            step("init"),
            *_segment("ss", "db", 0x84),
            step("prepare"),
            *_segment("fs", "base", 1 << 53),
            written("page_fault_error_code_mask", 0),
        ),
        _EMULATED,
    ),
    "a granularity of 30 shrinks the code in real-address mode": (
        {"ept": 0},
        (step("init"), *_segment("cs", "g", 30), step("vmlaunch")),
        _EMULATED,
    ),
    "PDPTEs of userspace are forgotten when L2 is restored": (
        {},
        (
            *L2,
            step("run"),
            step("prepare", base="guest-pae"),
            step("vmresume"),
            step("set-sregs", register="pdptr0", flip=1 << 31),
            step("set-nested-state", slot="b", part="flags"),
        ),
        "",
    ),
    "the VMX-preemption timer starts when RSM enters L2": (
        {},
        (
            *CURRENT,
            written("pin_based_vm_exec_control", 0x40),
            step("smi"),
            step("set-nested-state", part="smm_flags", flip=1),
            step("rsm"),
        ),
        "not modelled: the time of the VMX-preemption timer",
    ),
    "RSM outside SMM is an instruction that ends the interrupt shadow": (
        {},
        (
            step("smi"),
            step("set-events", part="smi.smm", value=0),
            step("set-events", part="interrupt.shadow", value=2),
            step("invvpid", operand="unmapped"),
        ),
        "",
    ),
    "6.1 leaves the interrupt shadow to an RSM that fails at the end": (
        {},
        (
            step("set-events", part="interrupt.shadow", value=2),
            step("smi"),
            step("smram-write", field="cs_attributes", unset=0x9292),
            step("rsm"),
        ),
        "",
    ),
    "two NMIs stay pending through an SMI": (
        _NO_UNRESTRICTED,
        (
            step("smi", vcpu=1),
            step("nmi"),
            step("set-events", part="smi.pending", value=1),
            step("nmi"),
            step("vmread", field="guest_activity_state"),
        ),
        "",
    ),
    "a root of PDPTEs is of page tables that are not there": (
        {"ept": 0},
        (
            *CURRENT,
            step("prepare", base="guest-pae"),
            step("vmlaunch"),
            step("set-sregs", register="cr3", flip=1 << 41),
            step("smi"),
        ),
        "not modelled: an L2 without a root of page tables",
    ),
    "to the emulator RFLAGS.VM comes before IA-32e mode": (
        {"ept": 0},
        (
            step("set-regs", register="rip", value=1 << 33),
            step("set-regs", register="rflags", value=0x26D06),
            step("vmresume"),
        ),
        "",
    ),
    "an event that takes the vCPU out of L2 ends what L1 was to write": (
        {},
        (
            *L2,
            step("l2-exit", exit="hlt"),
            step("set-events", part="triple_fault_pending", value=1),
            step("prepare"),
        ),
        "",
    ),
    "a second NMI waits while L2 is left for its state": (
        _NO_UNRESTRICTED,
        (
            *L2,
            step("nmi"),
            step("l2-exit", exit="hlt"),
            *_segment("tr", "type", 0),
            step("nmi"),
            step("rsm"),
        ),
        "not modelled: an NMI of L1 that waits for another event",
    ),
    "6.1 does not say that PDPTEs are missing, and goes on": (
        {"ept": 0},
        (
            *CURRENT,
            step("prepare", base="guest-pae"),
            step("vmlaunch"),
            step("set-nested-state", part="flags"),
            step("set-sregs", register="cr3", flip=1 << 48),
            step("vmxon"),
        ),
        "not modelled: a KVM_RUN that ends, and gives no reason",
    ),
    "a late VMfail behind RSM finds in CR4 what vmcs01 has of the bits that L2 owned": (
        _NO_UNRESTRICTED,
        (
            *L2,
            step("smi"),
            step("smram-write", field="cr4", flip=0x100),
            step("rsm"),
            step("l2-exit", exit="vmfail"),
        ),
        "",
    ),
}


@pytest.mark.parametrize("name", SESSIONS)
def test_a_rare_session_is_the_same(name: str, sessions: KvmSessions) -> None:
    parameters, path, ended = SESSIONS[name]
    world = replace(world_on("everything", sessions.kernel), parameters=tuple(parameters.items()))
    model = ModelSessions(sessions.kernel)
    assert (sessions.load(world), model.load(world)) == ("", "")
    compared = compare_session(path, model, sessions)
    assert compared.finding is None
    # Some of it the model follows further on one of the two kernels.
    assert compared.ended in ("", ended)
