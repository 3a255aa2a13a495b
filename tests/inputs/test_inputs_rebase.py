# SPDX-License-Identifier: GPL-2.0-only
"""A case keeps its differences on another profile, and inputs may number profiles of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import ConfigCase, EntryCase
from nvmxfuzz.inputs.codec import decode, encode
from nvmxfuzz.inputs.difference import Edit, apply, differences
from nvmxfuzz.inputs.mutate import cross_over, mutator
from nvmxfuzz.inputs.order import PROFILES
from nvmxfuzz.inputs.parts import take_apart
from nvmxfuzz.inputs.rebase import rebase
from nvmxfuzz.machine.profile import load_profile

FEW = ("haswell", "penryn")


def entry(profile: str, name: str = "guest-64") -> EntryCase:
    plain = EntryCase(base(name, load_profile(profile)), name)
    edited = apply(plain, (Edit("guest_rflags", 0xA), Edit("cpl", 3)))
    assert isinstance(edited, EntryCase)
    return edited


def test_a_case_keeps_its_differences_and_base() -> None:
    before = entry("skylake-x", "guest-32")
    after = rebase(before, FEW)
    assert after.profile == load_profile("haswell")
    assert after.base == "guest-32"
    assert differences(after) == differences(before)


def test_a_profile_named_after_the_own_one_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"kvm-6.12-haswell": load_profile("haswell"), "kvm-6.12-penryn": load_profile("penryn")}
    monkeypatch.setattr("nvmxfuzz.inputs.rebase.load_profile", known.__getitem__)
    names = tuple(known)
    assert rebase(entry("penryn"), names).profile == load_profile("penryn")
    assert rebase(entry("skylake-x"), names).profile == load_profile("haswell")


def test_a_config_keeps_its_differences() -> None:
    before = apply(ConfigCase(load_profile("skylake-x"), "skylake-x"), (Edit("family", 7),))
    after = rebase(before, FEW)
    assert isinstance(after, ConfigCase)
    assert (after.base, after.profile.family) == ("haswell", 7)


def test_numbers_mean_the_profiles_that_were_agreed_on() -> None:
    case = entry("penryn")
    data = encode(case, FEW)
    assert data[2] == FEW.index("penryn")
    assert decode(data, "vm_entry", FEW) == case
    assert decode(bytes((1, 0, 5, 0)), "vm_entry", FEW).profile == load_profile(FEW[5 % 2])
    assert encode(entry("skylake-x"), FEW)[1] == 3, "a profile without a number is told as text"
    assert encode(case) == encode(case, PROFILES)


def test_mutations_keep_to_the_profiles() -> None:
    mutate = mutator("vm_entry", lambda data, _: data, FEW)
    cross = cross_over("vm_entry", FEW)
    data = encode(entry("penryn"), FEW)
    numbers = set()
    for seed in range(400):
        data = mutate(data, 512, seed)
        numbers.add(data[2])
        assert take_apart(data, "vm_entry", FEW).base()[0].name in FEW
    assert numbers == {0, 1}
    assert cross(data, encode(replace(entry("haswell")), FEW), 512, 1)[2] in (0, 1)
