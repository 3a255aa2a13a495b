# SPDX-License-Identifier: GPL-2.0-only
"""The strategies: what they draw, and what an example shrinks to."""

from hypothesis import HealthCheck, find, given, settings

from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.bases import base, base_names
from nvmxfuzz.inputs.case import ConfigCase, EntryCase
from nvmxfuzz.inputs.codec import decode, encode
from nvmxfuzz.inputs.difference import differences
from nvmxfuzz.inputs.interesting import interesting
from nvmxfuzz.inputs.layout import layout
from nvmxfuzz.inputs.order import PROFILES
from nvmxfuzz.inputs.strategies import MOST_EDITS, config_cases, entry_cases, scatter
from nvmxfuzz.machine.profile import load_profile

QUICK = settings(
    settings.get_profile("repeatable"),
    max_examples=200,
    suppress_health_check=list(HealthCheck),
)
SEARCH = settings(QUICK, max_examples=20_000)


@QUICK
@given(entry_cases())
def test_entry_case_survives_the_codec(case: EntryCase) -> None:
    assert decode(encode(case), "vm_entry") == case


@QUICK
@given(config_cases())
def test_config_case_survives_the_codec(case: ConfigCase) -> None:
    assert decode(encode(case), "capability_config") == case
    assert len(differences(case)) <= MOST_EDITS


@QUICK
@given(entry_cases(profiles=["yonah"]))
def test_profiles_can_be_chosen(case: EntryCase) -> None:
    assert case.profile.name == "yonah"
    assert case.base in base_names(case.profile)


def test_any_case_shrinks_to_the_plain_base() -> None:
    case = find(entry_cases(), lambda _: True, settings=SEARCH)
    assert case == EntryCase(base("guest-64", load_profile(PROFILES[0])), "guest-64")


def test_failure_shrinks_to_one_edit() -> None:
    def breaks_rflags(case: EntryCase) -> bool:
        return "guest.rflags.fixed-1" in vm_entry(case.attempt).broken_names

    case = find(entry_cases(), breaks_rflags, settings=SEARCH)
    assert len(differences(case)) == 1


def test_config_shrinks_to_one_edit() -> None:
    case = find(config_cases(), lambda it: it.error_on_inconsistent is False, settings=SEARCH)
    assert len(differences(case)) == 1
    assert case.base == PROFILES[0]


def test_some_cases_lie_far_from_their_base() -> None:
    case = find(entry_cases(), lambda it: len(differences(it)) > 50, settings=SEARCH)
    assert len(differences(case)) > 50


def test_scattering_depends_on_the_seed_alone() -> None:
    start = EntryCase(base("guest-64", load_profile("everything")), "guest-64")
    assert scatter(start, 4) == scatter(start, 4)
    assert scatter(start, 4) != scatter(start, 8)


def test_edges_fit_their_slot_and_start_simple() -> None:
    for harness in ("vm_entry", "capability_config"):
        for slot in layout(harness).slots:
            edges = interesting(slot, load_profile("everything"))
            assert edges[0] == 0
            assert len(set(edges)) == len(edges)
            assert all(edge == slot.fit(edge) for edge in edges), slot.name


def test_edges_hold_what_the_capabilities_just_forbid() -> None:
    profile = load_profile("skylake-x")
    edges = interesting(layout("vm_entry").by_name["vm_entry_msr_load_count"], profile)
    assert profile.caps.max_msr_list + 1 in edges
