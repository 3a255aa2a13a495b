# SPDX-License-Identifier: GPL-2.0-only
"""Every consistency check of nested.c is seen to fail, or it is said why none can make it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.oracles.kvm.witness import place
from nvmxfuzz.targets.base import Message
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject
from nvmxfuzz.targets.kvm_native.check_runs import UNREACHABLE, CheckRuns, places_of
from nvmxfuzz.targets.kvm_native.check_scenarios import SCENARIOS, WITHOUT_CHECK, play
from nvmxfuzz.targets.kvm_native.checks_in_source import place_of, sites_of
from nvmxfuzz.targets.kvm_native.library import Library

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "nested-checks.md"

REFLECTS = "nested_vmx_reflect_vmexit"

SOURCE = """\
#define CC SOME_MACRO

/* CC(in a comment) */
static int declared(int number);

static int first(struct thing *thing,
        int number)
{
    if (CC(thing->a == 1) ||    // CC(no)
        CC(is_bad(thing, number)  /* why
                   */
           && !thing->b))
        return -1;
    return 0;
}

int second(void)
{
    return CC(!first(0, 1));
}
"""


def places_in_cache(built: BuiltObject) -> tuple[str, ...]:
    try:
        return places_of(built.kernel)
    except InputError as problem:
        if built.kernel in os.environ.get("NVMXFUZZ_REQUIRE_KVM", "").split(","):
            raise
        pytest.skip(str(problem))


def test_sites_are_told_as_the_compiler_sees_them() -> None:
    assert [(site.function, site.condition, site.line) for site in sites_of(SOURCE)] == [
        ("first", "thing->a == 1", 9),
        ("first", "is_bad(thing, number) && !thing->b", 10),
        ("second", "!first(0, 1)", 19),
    ]


def test_a_site_is_called_as_the_oracles_call_it() -> None:
    site = sites_of(SOURCE)[0]
    text = f"{site.condition} in {site.function}"
    assert site.place == place([Message(text, text)]) == place_of("first", "thing->a == 1")


def test_no_two_checks_have_one_name(built: BuiltObject) -> None:
    places = places_in_cache(built)
    assert len(set(places)) == len(places) > 100
    assert all(each.partition(" ")[0] for each in places)


def test_every_check_fails_for_something_or_cannot(built: BuiltObject) -> None:
    places, runs = places_in_cache(built), CheckRuns(built.kernel)
    found: set[str] = set()
    for path in sorted((ROOT / "corpus").rglob("*.toml")):
        case = load_case(path.read_bytes(), path.name)
        if isinstance(case, EntryCase):
            found.update(runs.of_case(case))
    found.update(check for check, _ in runs.of_scenarios())
    # What the processor refuses is told in the same way.
    assert {each.partition(" ")[0] for each in found - set(places)} <= {REFLECTS}
    assert set(places) - found == set(UNREACHABLE) & set(places)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_makes_its_check_fail(library: Library, name: str) -> None:
    first = play(library, name)[0]
    assert place_of(first.function, first.text) == name


def test_scenarios_without_a_check_leave_l1_running(library: Library) -> None:
    for name in WITHOUT_CHECK:
        play(library, name)
        assert (library.result().status, library.result().warnings) == ("returned", ())


def test_the_page_names_what_it_has_to() -> None:
    text = PAGE.read_text()
    assert [name for name in (*UNREACHABLE, *SCENARIOS) if f"`{name}`" not in text] == []
