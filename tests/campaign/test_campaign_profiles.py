# SPDX-License-Identifier: GPL-2.0-only
"""A harness may keep to some profiles: cases of others become cases of those."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvmxfuzz.campaign.plan import harness_file, load_harness
from nvmxfuzz.campaign.second_witness import with_target
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.codec import encode
from nvmxfuzz.inputs.difference import differences
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.registry import Entry

FEW = ("haswell", "penryn")
ALL = load_harness(harness_file("vm_entry"))
HARNESS = replace(ALL, profiles=FEW)


def edited(profile: str) -> EntryCase:
    attempt = base("guest-64", load_profile(profile))
    vmcs = attempt.vmcs.replace({"guest_rflags": 0xA})
    return EntryCase(replace(attempt, vmcs=vmcs), "guest-64")


def test_a_harness_reads_what_it_writes() -> None:
    case = edited("penryn")
    assert HARNESS.decode(HARNESS.encode(case)) == case
    assert ALL.decode(ALL.encode(case)) == case


def test_seeds_of_other_profiles_are_used_re_based() -> None:
    case = edited("skylake-x")
    found = HARNESS.decode(HARNESS.encode(case))
    assert isinstance(found, EntryCase)
    assert found.profile.name == "haswell"
    assert differences(found) == differences(case)


def test_a_case_as_text_is_re_based_as_well() -> None:
    own = replace(load_profile("skylake-x"), name="custom", maxphyaddr=39)
    case = EntryCase(replace(edited("skylake-x").attempt, profile=own), "guest-64")
    data = encode(case)
    assert ALL.decode(data).profile == own
    assert HARNESS.decode(data).profile.name == "haswell"


def test_every_input_is_on_one_of_the_profiles() -> None:
    for number in range(256):
        assert HARNESS.decode(bytes((1, 0, number, 0))).profile.name in FEW


def test_a_campaign_on_kvm_keeps_to_its_virtual_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    class Made:
        name = "kvm-6.12"

    monkeypatch.setattr(Entry, "make", lambda _: Made())
    harness = with_target(ALL, "kvm-6.12", isolated=False)
    assert harness.profiles[0] == "kvm-6.12-skylake-x"
    assert all(name.startswith("kvm-6.12-") for name in harness.profiles)
    assert {oracle.name for oracle in harness.always} == {
        "entry.no-missed-check",
        "entry.no-overreach",
        "entry.l0-owned",
        "kvm.survives",
    }
    assert "entry.merged-enters" in {oracle.name for oracle in harness.oracles}
    found = harness.decode(harness.encode(edited("penryn")))
    assert found.profile.name == "kvm-6.12-penryn"
