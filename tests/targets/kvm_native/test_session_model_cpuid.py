# SPDX-License-Identifier: GPL-2.0-only
"""CPUID and capability MSRs that change in a session, on the model and on KVM."""

from __future__ import annotations

import errno
from functools import cache

import pytest

from nvmxfuzz.inputs.session_steps import SessionStep
from nvmxfuzz.inputs.session_steps import session_step as step
from nvmxfuzz.inputs.world import FEATURES, world_on
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx
from nvmxfuzz.kvm.virtual_cpu import VirtualCpu
from nvmxfuzz.oracles.session.agreement import Compared, compare_session
from nvmxfuzz.targets.kvm_native.session import KvmSessions
from nvmxfuzz.targets.session_model import ModelSessions

PROFILES = ("skylake-x", "everything")
CURRENT = (step("vmxon"), step("vmclear"), step("vmptrld"))
L2 = (*CURRENT, step("prepare"), step("vmlaunch"))
_CR4_BITS = (1 << 11, 1 << 13, 1 << 16, 1 << 17, 1 << 18, 1 << 20, 1 << 21, 1 << 22, 1 << 28)
CR4 = tuple(step("set-sregs", register="cr4", flip=bit) for bit in _CR4_BITS)
"""Bit after bit that a vCPU may have in CR4."""
EFER = (
    step("set-sregs", register="efer", flip=1 << 11),
    step("set-msr", msr="IA32_EFER", flip=1 << 11),
)


def flip(feature: str) -> SessionStep:
    """Return KVM_SET_CPUID2 with a feature otherwise."""
    return step("set-cpuid", feature=feature)


def msr(name: str, **edit: int) -> SessionStep:
    """Return KVM_SET_MSRS with an MSR edited."""
    return step("set-msr", msr=name, **edit)


@cache
def _model(kernel: str, profile: str) -> ModelSessions:
    model = ModelSessions(kernel)
    assert model.load(world_on(profile, kernel)) == ""
    return model


def compare(sessions: KvmSessions, path: tuple[SessionStep, ...]) -> Compared:
    """Go a path on both."""
    assert sessions.load(world_on("skylake-x", sessions.kernel)) == ""
    return compare_session(path, _model(sessions.kernel, "skylake-x"), sessions)


def assert_same(
    sessions: KvmSessions, *paths: tuple[SessionStep, ...], profile: str = "skylake-x"
) -> None:
    """Compare paths to their ends."""
    assert sessions.load(world_on(profile, sessions.kernel)) == ""
    model = _model(sessions.kernel, profile)
    for path in paths:
        compared = compare_session(path, model, sessions)
        assert compared.finding is None
        assert (compared.steps, compared.ended) == (len(path), "")


@pytest.mark.parametrize("profile", PROFILES)
def test_a_feature_decides_what_registers_hold(sessions: KvmSessions, profile: str) -> None:
    paths = ((flip(feature), *CR4, *EFER) for feature in FEATURES)
    assert_same(sessions, *paths, profile=profile)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_feature_before_and_after_the_first_run(sessions: KvmSessions, profile: str) -> None:
    paths = ((flip(feature), *L2, flip(feature), step("run")) for feature in FEATURES)
    assert_same(sessions, *paths, profile=profile)


def test_once_it_has_run_a_vcpu_keeps_its_cpuid(sessions: KvmSessions) -> None:
    path = (*CURRENT, flip("SMEP"), flip("LAM"))
    assert_same(sessions, path)
    sessions.renew()
    assert [sessions.do(each).errno for each in path][-2:] == [-errno.EINVAL, 0]


CAPABILITIES = {
    "fewer controls": msr("IA32_VMX_TRUE_PROCBASED_CTLS", unset=1 << 63),
    "more that must be 1": msr("IA32_VMX_TRUE_PROCBASED_CTLS", flip=1 << 7),
    "no secondary control": msr("IA32_VMX_PROCBASED_CTLS2", unset=0xFFFF_FFFF << 32),
    "no activity state": msr("IA32_VMX_MISC", unset=7 << 6),
    "no VMWRITE to any field": msr("IA32_VMX_MISC", unset=1 << 29),
    "CR0 with more fixed": msr("IA32_VMX_CR0_FIXED0", flip=1 << 3),
    "CR4 with more fixed": msr("IA32_VMX_CR4_FIXED0", flip=1 << 4),
    "no INVEPT": msr("IA32_VMX_EPT_VPID_CAP", unset=1 << 20),
    "VMCS enumeration of any kind": msr("IA32_VMX_VMCS_ENUM", flip=1 << 40),
    "what KVM does not offer": msr("IA32_VMX_BASIC", flip=1),
}


def test_capabilities_change(sessions: KvmSessions) -> None:
    instructions = (step("vmwrite", field="vm_exit_reason", value=1), step("invept", type=1))
    ready = (*CURRENT, *instructions, step("prepare"), step("vmlaunch"))
    changes = CAPABILITIES.values()
    assert_same(sessions, *((change, *ready) for change in changes))
    later = ((*L2, change, step("run"), step("vmxoff"), change, *L2) for change in changes)
    assert_same(sessions, *later)


def test_an_l1_that_keeps_what_it_had_shows(
    sessions: KvmSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgets(vmx: VcpuVmx) -> None:
        vmx.capabilities = None

    monkeypatch.setattr("nvmxfuzz.kvm.vcpu_ioctls.capability_msrs_changed", forgets)
    path = (CAPABILITIES["CR0 with more fixed"], *CURRENT)
    assert compare(sessions, path).finding is not None


def test_registers_that_keep_their_bits_show(
    sessions: KvmSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(vmx: VcpuVmx, msrs: object, at_first: VirtualCpu) -> None:
        del msrs, at_first
        vmx.capabilities = None

    monkeypatch.setattr("nvmxfuzz.kvm.vcpu_cpuid.after_set_cpuid", nothing)
    assert compare(sessions, (flip("SMEP"), *CR4)).finding is not None
