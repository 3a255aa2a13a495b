# SPDX-License-Identifier: GPL-2.0-only
"""Worlds of sessions are kept ready: each begins as it was loaded, whatever came in between."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from nvmxfuzz.inputs.session_steps import session_step
from nvmxfuzz.inputs.world import World, parameters_of, world_on
from nvmxfuzz.oracles.session.witness import VcpuView
from nvmxfuzz.targets.kvm_native.session import KvmSessions

_NAMES = ("ept", "unrestricted_guest", "enable_shadow_vmcs", "vpid")


def worlds(kernel: str) -> list[World]:
    """Return more worlds than are kept."""
    plain = world_on("skylake-x", kernel)
    each = product((0, 1), repeat=len(_NAMES))
    return [
        replace(plain, parameters=parameters_of(dict(zip(_NAMES, values, strict=True))))
        for values in each
    ]


def _without_clock(view: VcpuView) -> VcpuView:
    return replace(view, msrs=tuple(pair for pair in view.msrs if pair[0] != "IA32_TSC"))


def _life(sessions: KvmSessions) -> tuple[VcpuView, ...]:
    """Return the vCPU before and after L1 has entered L2."""
    views = [sessions.read(0)]
    for kind in ("vmxon", "vmptrld", "prepare", "vmlaunch"):
        assert not sessions.do(session_step(kind)).stopped
    return tuple(map(_without_clock, (*views, sessions.read(0))))


def test_a_world_begins_anew_each_time(sessions: KvmSessions) -> None:
    every = worlds(sessions.kernel)
    first: dict[int, tuple[VcpuView, ...]] = {}
    for number in (*range(len(every)), 3, 15, 3, 0, 15):
        assert sessions.load(every[number]) == ""
        lived = _life(sessions)
        assert first.setdefault(number, lived) == lived
        assert lived[1].in_l2
        sessions.renew()
        assert _life(sessions) == lived


def test_worlds_are_not_mixed_up(sessions: KvmSessions) -> None:
    with_shadow, without = worlds(sessions.kernel)[-1], worlds(sessions.kernel)[0]
    found = []
    for world in (with_shadow, without, with_shadow):
        assert sessions.load(world) == ""
        found.append(dict(sessions.read(0).msrs)["IA32_VMX_PROCBASED_CTLS2"])
    assert found[0] == found[2] != found[1]


def test_a_world_that_kvm_refuses_is_refused_again(sessions: KvmSessions) -> None:
    refused = world_on("yonah", sessions.kernel)
    why = sessions.load(refused)
    assert why
    assert sessions.load(worlds(sessions.kernel)[0]) == ""
    assert sessions.load(refused) == why
    assert sessions.vm is None
