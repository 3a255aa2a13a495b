# SPDX-License-Identifier: GPL-2.0-only
"""Refuse, keep or clear: the cases of the thread on "bug compatibility", and planted faults."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.kvm import msr_behaviour, source
from nvmxfuzz.kvm.entry_behaviour import entry_behaviour
from nvmxfuzz.kvm.evmcs import EVMCS_5_18
from nvmxfuzz.kvm.host import DEFAULT_PARAMS, HostCpu, ModuleParams
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.migration import policies
from nvmxfuzz.oracles.migration.policies import (
    POLICIES,
    Consequence,
    Entries,
    Judged,
    Policy,
    consequences,
    entries_before,
    judging,
    l1_processor,
)
from nvmxfuzz.oracles.migration.table import migration_table, offering
from nvmxfuzz.oracles.migration.users import user_of
from nvmxfuzz.oracles.restore.bit_names import CONTROL_TABLES, NAMED_MSRS, Capability, capabilities
from nvmxfuzz.oracles.restore.witness import ModelMsrs, MsrWorld

SECONDARY: Final = 0x48B
VMFAIL: Final = "fail-valid 7"
ALLOWED: Final = "execution.secondary.allowed"


def on(
    profile: str, params: ModuleParams = DEFAULT_PARAMS, *, hyperv: bool = False
) -> tuple[str, MsrWorld]:
    """Return a profile with its world."""
    host = HostCpu.of(load_profile(profile), on_hyperv_evmcs=hyperv)
    return profile, MsrWorld(profile, host, params)


def of_all(
    one: str, other: str, start: tuple[str, MsrWorld], end: tuple[str, MsrWorld] | None = None
) -> dict[Policy, Consequence]:
    """Return what each policy means for a VM between two models."""
    end = end or start
    table = migration_table(offering(ModelMsrs(one), start[1]), ModelMsrs(other), end[1])
    found = consequences(table, load_profile(start[0]), load_profile(end[0]))
    return {each.policy: each for each in found}


def names(found: tuple[Capability, ...]) -> list[str]:
    """Return the names of capabilities."""
    return [each.text for each in found]


def failing(found: Consequence) -> dict[str, tuple[str, str]]:
    """Return how the entries ended that enter no more, by what they use."""
    return {
        "-" if each.uses is None else each.uses.text: (each.after.ended, each.after.check)
        for each in found.failing
    }


# ---------------------------------------------------------------------- the cases of the thread


def test_encls_exiting_hurts_nobody_but_the_vm_that_is_refused() -> None:
    found = of_all("5.18", "6.12", on("arrow-lake"))
    assert tuple(found) == POLICIES
    assert not found["refuse"].arrives
    for policy in ("keep", "clear"):
        assert found[policy].arrives
        assert found[policy].failing == ()
        assert found[policy].tried > 0
        assert names(found[policy].unused) == ["enable ENCLS exiting"]
    assert names(found["keep"].unbacked) == ["enable ENCLS exiting"]
    assert found["keep"].vanished == ()
    assert names(found["clear"].vanished) == ["enable ENCLS exiting"]
    assert found["clear"].unbacked == ()


def test_encls_exiting_where_the_processor_has_it_is_used() -> None:
    start = on("everything")
    bare = dict(load_profile("everything").msrs)
    bare[SECONDARY] &= ~(Secondary.ENABLE_ENCLS_EXITING << 32)
    host = replace(start[1].host, msrs=bare)
    end = replace(start[1], host=host)
    table = migration_table(offering(ModelMsrs("5.18"), start[1]), ModelMsrs("6.12"), end)
    profile = load_profile("everything")
    below = replace(profile, msrs=bare)
    keep, clear = consequences(table, profile, below, ("keep", "clear"))
    assert failing(keep) == {"enable ENCLS exiting": (VMFAIL, "hardware.entry.vmfail")}
    assert failing(clear) == {"enable ENCLS exiting": (VMFAIL, ALLOWED)}


@pytest.fixture
def series_as_posted(monkeypatch: pytest.MonkeyPatch) -> str:
    """Let there be a kernel whose nested MSRs are made of the config, with nothing added back.

    On Hyper-V the config is within the enlightened VMCS of that time, which has no TSC scaling, and
    the erratum takes the controls for IA32_PERF_GLOBAL_CTRL out of it.
    """
    kernel = replace(
        source.find_kernel("6.1"),
        version="posted",
        evmcs=EVMCS_5_18,
        perf_global_ctrl_erratum_in_config=True,
    )
    behaviour = replace(
        msr_behaviour.msr_behaviour("6.1"), version="posted", perf_global_ctrl_always=False
    )
    monkeypatch.setattr(source, "_KERNELS", (*source._KERNELS, kernel))
    monkeypatch.setattr(msr_behaviour, "_BEHAVIOURS", (*msr_behaviour._BEHAVIOURS, behaviour))
    like_6_1 = entry_behaviour("6.1")
    monkeypatch.setattr(policies, "entry_behaviour", lambda _: like_6_1)
    return "posted"


def test_tsc_scaling_with_the_enlightened_vmcs(series_as_posted: str) -> None:
    found = of_all("5.18", series_as_posted, on("skylake-x", hyperv=True))
    assert not found["refuse"].arrives
    assert "use TSC scaling" in names(found["keep"].unbacked)
    assert "use TSC scaling" not in failing(found["keep"])
    assert "use TSC scaling" in names(found["clear"].vanished)
    # KVM has no field for the multiplier there, and vmcs02 keeps a 0: nobody can have used it.
    assert "use TSC scaling" in names(found["clear"].unused)
    assert "use TSC scaling" not in failing(found["clear"])
    # What the enlightened VMCS lacks too, and KVM ran all the same, is missed.
    assert failing(found["clear"])["virtual-interrupt delivery"] == (VMFAIL, ALLOWED)
    assert "-" not in failing(found["clear"])


def test_tsc_scaling_without_hyperv_is_no_case(series_as_posted: str) -> None:
    found = of_all("5.18", series_as_posted, on("skylake-x"))
    assert "use TSC scaling" not in names(found["clear"].vanished)


def test_perf_global_ctrl_under_the_erratum(series_as_posted: str) -> None:
    found = of_all("5.18", series_as_posted, on("lynnfield"))
    control = "load IA32_PERF_GLOBAL_CTRL"
    assert not found["refuse"].arrives
    assert names(found["clear"].vanished).count(control) == 2
    assert failing(found["clear"])[control] in {
        (VMFAIL, "exit.controls.allowed"),
        (VMFAIL, "entry.controls.allowed"),
    }
    assert failing(found["keep"]) == {}


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_what_came_of_the_thread_is_that_perf_global_ctrl_stays(kernel: str) -> None:
    found = of_all("5.18", kernel, on("lynnfield"))
    assert "load IA32_PERF_GLOBAL_CTRL" not in names(found["clear"].vanished)


# ---------------------------------------------------------------------- in general


def test_a_vm_that_fits_arrives_under_every_policy() -> None:
    found = of_all("6.1", "6.12", on("sapphire-rapids"))
    for each in found.values():
        assert each.arrives
        assert not (each.vanished)
        assert not (each.unbacked)
        assert not (each.failing)
        assert not (each.unused)
        assert each.tried == 5


def test_a_base_that_needs_what_is_gone_fails_by_its_name() -> None:
    found = of_all(
        "6.12", "6.12", on("haswell"), on("lynnfield", replace(DEFAULT_PARAMS, ept=False))
    )
    assert {each.base for each in found["clear"].failing if each.uses is None} == {"guest-real"}


def test_a_vm_that_cannot_be_cleared_does_not_arrive() -> None:
    end = on("haswell", replace(DEFAULT_PARAMS, nested=False))
    found = of_all("6.12", "6.12", on("haswell"), end)
    assert not any(each.arrives for each in found.values() if each.policy != "keep")


# ---------------------------------------------------------------------- users


def offered(profile: str) -> tuple[Capability, ...]:
    """Return everything with a name that L1 is offered there."""
    values = offering(ModelMsrs("6.12"), on(profile)[1]).offered
    return tuple(
        each
        for index in NAMED_MSRS
        for each in capabilities(index, values[index])
        if each.named and each.is_offered(values[index])
    )


UNUSED: Final = {
    *("single-context INVEPT", "all-context INVEPT", "INVEPT instruction", "INVVPID instruction"),
    *("individual-address INVVPID", "single-context INVVPID", "all-context INVVPID"),
    *("single-context-retaining-globals INVVPID", "execute-only translations by EPT"),
    *("2-MByte EPT pages", "1-GByte EPT pages", "VMWRITE can write every supported field"),
    *(
        "default1 controls may be cleared",
        "VM exit stores IA32_EFER.LMA into the VM-entry controls",
    ),
    "VM exits due to INS and OUTS report instruction information",
}
"""What no state of a VMCS depends on: instructions, page tables, what a VM exit writes."""

UNCHECKED: Final = {
    "activity state HLT",
    "activity state wait-for-SIPI",
    "CR0.PE",
    "CR0.NE",
    "CR0.PG",
}
"""What KVM lets L1 use whether it is offered or not, or demands."""


def test_every_capability_has_a_user_that_enters_with_it_and_not_without() -> None:
    name, where = on("everything")
    start = offering(ModelMsrs("6.12"), where)
    profile = load_profile(name)
    virtual = l1_processor(start, profile)
    with_it = judging(policies._kvm(start, profile, virtual))
    without: set[str] = set()
    for each in offered(name):
        use = user_of(each, virtual)
        if use is None:
            assert each.kind == "number" or each.text in UNUSED, each
            continue
        assert with_it(use.attempt).entered, each
        value = start.offered[each.index]
        changed = value | each.mask if each.kind == "may-be-0" else value & ~each.mask
        poorer = replace(virtual, msrs={**start.offered, each.index: changed})
        if judging(policies._kvm(start, profile, poorer))(use.attempt).entered:
            assert each.text in UNCHECKED, each
            without.add(each.text)
    assert without == UNCHECKED


def test_every_control_can_be_used() -> None:
    _, where = on("everything")
    virtual = l1_processor(offering(ModelMsrs("6.12"), where), load_profile("everything"))
    controls = [each for each in offered("everything") if each.index in CONTROL_TABLES]
    assert len(controls) > 100
    assert all(user_of(each, virtual) for each in controls)


# ---------------------------------------------------------------------- planted faults


def revoked() -> Capability:
    """Return TSC scaling."""
    return next(each for each in offered("everything") if each.text == "use TSC scaling")


def test_an_entry_that_did_not_enter_before_is_no_loss() -> None:
    virtual = load_profile("everything")
    found = entries_before((revoked(),), virtual, lambda _: Judged(VMFAIL, "planted"))
    assert found == Entries((), (), (revoked(),))


def test_a_destination_that_enters_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def planted(kvm: object) -> policies.Judging:
        calls.append(kvm)
        ended = "entered" if len(calls) == 1 else VMFAIL

        def judged(_: Attempt) -> Judged:
            return Judged(ended, "planted")

        return judged

    monkeypatch.setattr(policies, "judging", planted)
    found = of_all("6.1", "6.12", on("sapphire-rapids"))["keep"]
    assert len(found.failing) == found.tried > 0
    assert {each.after.check for each in found.failing} == {"planted"}
