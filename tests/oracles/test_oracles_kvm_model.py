# SPDX-License-Identifier: GPL-2.0-only
"""The oracle that compares the model of nested VM entry to KVM: what it finds, and what it leaves.

Here the model stands for KVM as well, with one thing changed at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.kvm.entry_run import NestedEntry
from nvmxfuzz.kvm.nested_enter import vm_entry
from nvmxfuzz.kvm.nested_kvm import entry_request, nested_kvm
from nvmxfuzz.kvm.traced_checks import SITES, text_digest
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, Outcome, exit_on_entry, fail_valid
from nvmxfuzz.machine.processor import NO_POINTER
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.oracles.kvm import model as kvm_model
from nvmxfuzz.oracles.kvm.model import NAME, Both, NoEntry, RealEntry, agreement, compare

HOST = load_profile("skylake-x")
KVM, VIRTUAL = nested_kvm(HOST, "6.12")
PLAIN = base("guest-64", VIRTUAL)
ADDRESS = "execution.io-bitmap-a.address"


class Hardware:
    """A processor with one answer."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def enter(self, attempt: Attempt) -> Outcome:
        """Give it."""
        del attempt
        return self.outcome


def with_fields(**fields: int) -> Attempt:
    return replace(PLAIN, vmcs=PLAIN.vmcs.replace(fields))


def text_of(check: str) -> tuple[str, str]:
    """Return a trace that is known by its digest: the digest stands for the text."""
    return next(site for site, names in SITES.items() if check in names)


def both(attempt: Attempt = PLAIN, hardware: Hardware | None = None) -> Both:
    """Return a VM entry on which all agree."""
    request = entry_request(attempt)
    model = vm_entry(KVM, request, hardware)
    l1 = model.l1
    real = RealEntry(
        outcome=model.outcome,
        died=model.died,
        checks=tuple(text_of(name) for name in model.fired),
        warnings=len(model.warnings),
        vmcs01=model.vmcs01,
        vmcs02=model.vmcs02,
        vmcs12=attempt.vmcs.replace(dict(model.vmcs12_writes)),
        asked=tuple(entry.attempt.vmcs for entry in model.hardware),
        l1=None if l1 is None else {"rflags": l1.rflags, "rip": l1.rip},
    )
    return Both(request, model, real)


@pytest.fixture(autouse=True)
def texts_are_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    def names(function: str, text: str) -> tuple[str, ...]:
        return SITES.get((function, text), ())

    monkeypatch.setattr(kvm_model, "check_names", names)


def changed(of: Both, **changes: object) -> Both:
    assert isinstance(of.real, RealEntry)
    return replace(of, real=replace(of.real, **changes))  # type: ignore[arg-type]


def found(of: Both) -> list[str]:
    return [f"{what}: {where}" for what, where, _ in compare(of).differences]


REFUSED = with_fields(guest_cr0=0x21, guest_rflags=2)
NO_CONTROLS = with_fields(cpu_based_vm_exec_control=0)


@pytest.mark.parametrize("attempt", [PLAIN, REFUSED, NO_CONTROLS])
def test_the_same_agrees(attempt: Attempt) -> None:
    assert compare(both(attempt)).relation == "agreed"


@pytest.mark.parametrize("outcome", [ENTERED, fail_valid(7), exit_on_entry(33, 0)])
def test_the_same_on_hardware_agrees(outcome: Outcome) -> None:
    assert compare(both(PLAIN, Hardware(outcome))).relation == "agreed"


def test_another_outcome_is_found() -> None:
    assert found(changed(both(), outcome=fail_valid(7))) == ["outcome: entered"]
    assert found(changed(both(NO_CONTROLS), outcome=fail_valid(8))) == [
        "outcome: execution.primary.allowed"
    ]
    refused = both(REFUSED)
    assert found(changed(refused, outcome=exit_on_entry(33, 2))) == ["outcome: guest.cr0.fixed"]
    assert found(changed(refused, outcome=None, died="triple-fault")) == [
        "outcome: guest.cr0.fixed"
    ]


def test_another_check_is_found() -> None:
    refused = both(NO_CONTROLS)
    function, digest = text_of("execution.secondary.allowed")
    assert found(changed(refused, checks=((function, digest),)))[0].startswith("checks: nested")
    assert found(changed(refused, checks=())) == ["checks: execution.primary.allowed"]
    assert found(changed(refused, checks=(("nested_vmx_run", "?"),)))[0].startswith("checks: ")


def test_a_condition_around_a_condition_repeats_it() -> None:
    refused = both(NO_CONTROLS)
    once = text_of("execution.primary.allowed")
    assert found(changed(refused, checks=(once, once))) == []


def test_a_check_too_many_is_found() -> None:
    site = text_of("execution.secondary.allowed")
    assert found(changed(both(), checks=(site,))) == [f"checks: {site[0]} {text_digest(site[1])}"]


def test_a_warning_is_found() -> None:
    assert found(changed(both(), warnings=1)) == ["warnings: none"]


@pytest.mark.parametrize("what", ["vmcs01", "vmcs02", "vmcs12"])
@pytest.mark.parametrize("name", ["guest_cr3", "cpu_based_vm_exec_control", "host_ia32_efer"])
def test_a_field_that_was_written_otherwise_is_found(what: str, name: str) -> None:
    plain = both()
    vmcs: Vmcs = getattr(plain.real, what)
    other = vmcs.replace({name: vmcs.__dict__[name] ^ 1})
    assert found(changed(plain, **{what: other})) == [f"{what}: {name}"]


def test_what_the_processor_is_given_otherwise_is_found() -> None:
    entered = both(PLAIN, Hardware(ENTERED))
    assert isinstance(entered.real, RealEntry)
    (asked,) = entered.real.asked
    other = asked.replace({"guest_rip": asked.guest_rip + 1, "host_rsp": 1})
    assert found(changed(entered, asked=(other,))) == ["vmcs02 at VM entry: guest_rip"]
    assert found(changed(entered, asked=())) == ["hardware: entries"]


def test_a_register_of_l1_is_found() -> None:
    refused = both(NO_CONTROLS)
    assert found(changed(refused, l1={"rip": 0})) == ["L1: rip"]


def test_what_the_clock_says_is_left_out() -> None:
    plain = both()
    assert isinstance(plain.real, RealEntry)
    assert plain.real.vmcs02 is not None
    other = plain.real.vmcs02.replace({"tsc_offset": 77})
    assert found(changed(plain, vmcs02=other)) == ["vmcs02: tsc_offset"]
    assert found(changed(plain, vmcs02=other, tsc_written=True)) == []


def test_a_call_that_does_not_return_is_found() -> None:
    stopped = compare(replace(both(), real=NoEntry("stopped", "BUG at x.c:1")))
    assert stopped.relation == "stopped"
    assert stopped.differences
    absent = compare(replace(both(), real=NoEntry("not-representable", "no")))
    assert (absent.relation, absent.differences) == ("not-representable", ())


class Witness:
    """KVM that does as the model says, with something changed."""

    name = "kvm-6.12"

    def __init__(self, change: Callable[[Both], Both | NoEntry]) -> None:
        self.change = change
        self.asked = 0

    def virtual(self, profile: Profile) -> Profile:
        """Return the one that all attempts are on."""
        del profile
        return VIRTUAL

    def both(self, attempt: Attempt) -> Both | NoEntry:
        """Return both sides, changed."""
        self.asked += 1
        return self.change(both(attempt))


def no_judgement(*_: object) -> Judgement:
    raise AssertionError


def test_the_oracle_finds_what_differs() -> None:
    faulty = Witness(lambda same: changed(same, outcome=fail_valid(7)))
    finding = agreement(faulty).check(EntryCase(PLAIN), no_judgement)
    assert finding is not None
    assert (finding.oracle, finding.rules, finding.site) == (NAME, ("outcome",), "entered")
    assert finding.targets == ("kvm-model-6.12", "kvm-6.12")


def test_the_oracle_is_silent_where_both_agree_or_nothing_is_known() -> None:
    assert agreement(Witness(lambda same: same)).check(EntryCase(PLAIN), no_judgement) is None
    absent = Witness(lambda _: NoEntry("not-representable", "no"))
    assert agreement(absent).check(EntryCase(PLAIN), no_judgement) is None


def test_an_l1_that_cannot_be_is_not_asked_about() -> None:
    witness = Witness(lambda same: same)
    impossible = replace(PLAIN, processor=replace(PLAIN.processor, efer=1 << 40))
    assert agreement(witness).check(EntryCase(impossible), no_judgement) is None
    assert witness.asked == 0
    assert PLAIN.processor.current_vmcs != NO_POINTER


def test_the_model_has_a_sentence_for_what_must_hold() -> None:
    assert "model" in agreement(Witness(lambda same: same)).sentence
    assert isinstance(both().model, NestedEntry)
