# SPDX-License-Identifier: GPL-2.0-only
"""A case as it is on another kernel, what each kernel shows of it, and which is the first."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from nvmxfuzz.campaign.store import StoredFinding
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import (
    Case,
    CaseKind,
    ConfigCase,
    EntryCase,
    MigrationCase,
    RestoreCase,
    SessionCase,
)
from nvmxfuzz.inputs.codec import decode
from nvmxfuzz.inputs.difference import Edit, apply, differences
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.triage import bisecting
from nvmxfuzz.triage.bisecting import Place, bisect, case_on, first_bad, moved
from nvmxfuzz.triage.case_finding import CaseFinding, stored_finding
from nvmxfuzz.triage.examiner import Answer
from nvmxfuzz.triage.job import Limits, Setting

FINDING = Finding("an.oracle", ("a.rule",), ("cpu", "kvm-6.12"), "here", "it was so")
OTHER = Finding("another.oracle", (), ("cpu", "kvm-6.1"), "", "something else")


def entry(profile: str) -> EntryCase:
    case = apply(EntryCase(base("guest-64", load_profile(profile)), "guest-64"), [EDIT])
    assert isinstance(case, EntryCase)
    return case


EDIT = Edit("guest_rflags", 0xA)


def found(case: Case, target: str | None) -> CaseFinding:
    return CaseFinding(Setting(case.harness, target), FINDING, (case,))


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("kvm-6.12", "kvm-6.6"),
        ("kvm-6.12+bochs", "kvm-6.6+bochs"),
        ("kvm-model-6.12", "kvm-model-6.6"),
    ],
)
def test_the_target_is_that_of_the_other_kernel(target: str, wanted: str) -> None:
    setting, _ = moved(found(entry("skylake-x"), target), "6.6")
    assert setting == Setting("vm_entry", wanted)


@pytest.mark.parametrize(
    ("profile", "kernel", "wanted"),
    [
        ("kvm-6.12-penryn", "6.1", "kvm-6.1-penryn"),
        ("kvm-6.12-penryn", "6.6", "penryn"),
        ("skylake-x", "6.1", "skylake-x"),
    ],
)
def test_an_entry_stays_on_its_hardware(profile: str, kernel: str, wanted: str) -> None:
    case = case_on(entry(profile), kernel)
    assert isinstance(case, EntryCase)
    assert case.profile == load_profile(wanted)
    assert differences(case) == (EDIT,)


def test_other_cases_get_the_kernel_in_them() -> None:
    kinds: tuple[CaseKind, ...] = (
        "capability_config",
        "capability_restore",
        "session",
        "migration",
    )
    config, restore, session, migration = (case_on(decode(b"", kind), "6.1") for kind in kinds)
    assert isinstance(config, ConfigCase)
    assert isinstance(restore, RestoreCase)
    assert isinstance(session, SessionCase)
    assert isinstance(migration, MigrationCase)
    assert {config.kernel, restore.world.kernel, session.world.kernel} == {"6.1"}
    assert (migration.source.kernel, migration.destination.kernel) == ("6.12", "6.1")


@pytest.mark.parametrize("target", [None, "bochs", "python-model"])
def test_what_is_about_no_kernel_is_a_sentence(target: str | None) -> None:
    with pytest.raises(InputError, match="no kernel: there is nothing to bisect"):
        bisect(found(entry("skylake-x"), target), [Place("6.1", "6.1.1")])


class FakeKernels:
    """What processes say that have a kernel each: by its name, an answer for each of them."""

    def __init__(self, answers: Mapping[str, list[Answer | InputError]]) -> None:
        self.answers = {f"kvm-{kernel}": list(each) for kernel, each in answers.items()}

    def __call__(
        self,
        setting: Setting,
        _limits: Limits,
        *,
        known_too: bool,
        environment: Mapping[str, str],
    ) -> FakeProcess:
        """Start a process."""
        assert known_too
        assert environment == {}
        assert setting.target is not None
        return FakeProcess(self.answers[setting.target].pop(0))


class FakeProcess:
    """A process with one answer."""

    def __init__(self, answer: Answer | InputError) -> None:
        self.answer = answer

    def __enter__(self) -> FakeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def examine(self, _case: Case) -> Answer:
        """Give the answer."""
        if isinstance(self.answer, InputError):
            raise self.answer
        return self.answer


NOTHING = Answer(())


def test_each_kernel_is_told_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = Finding("an.oracle", ("a.rule",), ("cpu", "kvm-6.2"), "here", "it is so")
    kernels = FakeKernels(
        {
            "5.10": [InputError("it is not built")],
            "6.1": [NOTHING, NOTHING],
            "6.2": [NOTHING, Answer((elsewhere,))],
            "6.6": [Answer((OTHER,)), Answer((OTHER,))],
            "6.7": [Answer((), unrepresented="no such processor")] * 2,
            "6.12": [Answer((OTHER,), known=(FINDING,))],
        }
    )
    monkeypatch.setattr(bisecting, "Fresh", kernels)
    order = ("6.12", "6.2", "6.1", "5.10", "6.7", "6.6")
    places = [Place(kernel, f"{kernel}.9") for kernel in order]
    results = bisect(found(entry("skylake-x"), "kvm-6.12"), places)
    told = [(each.place.kernel, each.result, each.known) for each in results]
    assert told == [
        ("5.10", "cannot represent it", False),
        ("6.1", "does not show it", False),
        ("6.2", "shows it", False),
        ("6.6", "another finding", False),
        ("6.7", "cannot represent it", False),
        ("6.12", "shows it", True),
    ]
    first = first_bad(results)
    assert first is not None
    assert first.place.kernel == "6.2"
    assert [each.detail for each in results[3:5]] == [OTHER.identity, "no such processor"]


def test_no_kernel_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bisecting, "Fresh", FakeKernels({"6.1": [NOTHING, NOTHING]}))
    assert first_bad(bisect(found(entry("skylake-x"), "kvm-6.1"), [Place("6.1", "6.1.9")])) is None


def test_versions_of_one_kernel_are_told_apart_by_number() -> None:
    versions = ("6.12.9", "6.12.117-1", "6.12.13+abc")
    places = sorted((Place("6.12", version) for version in versions), key=lambda one: one.age)
    assert [place.version for place in places] == ["6.12.9", "6.12.13+abc", "6.12.117-1"]


def test_a_finding_of_a_store_runs_where_it_was_found() -> None:
    def stored(target: str) -> StoredFinding:
        return StoredFinding(
            "vm_entry", FINDING, b"\1", 'base = "guest-64"\n', None, None, 1, target=target
        )

    assert stored_finding(stored("kvm-6.12+rules")).setting.target == "kvm-6.12+rules"
    # Of an old store, one of the sides that disagree.
    assert stored_finding(stored("")).setting.target == "kvm-6.12"
