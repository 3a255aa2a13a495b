# SPDX-License-Identifier: GPL-2.0-only
"""The oracles over the closed loop fire on every planted fault, and on nothing that is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, Outcome, exit_on_entry, fail_valid
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.kvm.known import tables_of
from nvmxfuzz.oracles.kvm.loop import loop_oracles
from nvmxfuzz.targets.base import Message, Observation, no_opinion, not_representable, observed
from nvmxfuzz.targets.passage import Asked, L0State, L1View, Passage

VIRTUAL = load_profile("skylake-x")
PLAIN = base("guest-64", VIRTUAL)
END = tables_of("kvm-6.12").end
EXIT_33 = exit_on_entry(33)
REGISTERS = (("rip", 0x1000), ("rsp", 0x7000), ("rflags", 2), ("efer", 0xD01))
MSRS = ((0x174, 0), (0x277, 0x7040600070406))
BEFORE = L1View(REGISTERS, MSRS, PLAIN.vmcs, launched=False)
L0 = L0State((("cr3", 0x5000), ("dr7", 0x400), ("rflags.if", 0x200)), "vmcs01", PLAIN.vmcs)

Fault = Callable[[Passage], Passage]


def entry(outcome: Outcome, attempt: Attempt = PLAIN, *, dry: bool = False) -> Asked:
    return Asked(attempt, observed(outcome), outcome, dry)


def view(outcome: Outcome) -> L1View:
    """Return what L1 rightly finds after an outcome."""
    registers = dict(REGISTERS)
    edits: dict[str, int] = {}
    match outcome.kind:
        case "fail-valid":
            registers |= {"rip": 0x1003, "rflags": 0x42}
            edits = {"vm_instruction_error": outcome.number}
        case "exit":
            registers |= {"rip": 0xF000}
            edits = {
                "vm_exit_reason": outcome.number | 1 << 31,
                "exit_qualification": outcome.qualification,
            }
    return replace(BEFORE, registers=tuple(registers.items()), vmcs=PLAIN.vmcs.replace(edits))


def passage(outcome: Outcome, *asked: Asked) -> Passage:
    return Passage(observed(outcome), asked, BEFORE, view(outcome), L0, L0)


class FakeLoop:
    """Does what is known of KVM on a processor, with faults planted on either way."""

    name = "kvm-6.12+rules"

    def __init__(self, plain: Fault | None = None, dry: Fault | None = None) -> None:
        self._plain = plain or (lambda rightly: rightly)
        self._dry = dry or (lambda rightly: rightly)
        self.asked: list[str] = []

    def virtual(self, profile: Profile) -> Profile:
        """Return the virtual processor."""
        return profile

    def run(self, attempt: Attempt) -> Observation:
        """Return what L1 sees."""
        self.asked.append("run")
        return self._follow(attempt).observation

    def follow(self, attempt: Attempt) -> Passage:
        """Return the passage without a dry run."""
        self.asked.append("follow")
        return self._follow(attempt)

    def follow_dry(self, attempt: Attempt) -> Passage:
        """Return the passage with one."""
        self.asked.append("follow_dry")
        outcome = END.judge(attempt).permitted[0]
        if outcome.kind == "fail-valid":
            return self._dry(passage(outcome, entry(outcome, attempt, dry=True)))
        dry_run = entry(EXIT_33, attempt, dry=True)
        return self._dry(passage(outcome, dry_run, entry(outcome, attempt)))

    def _follow(self, attempt: Attempt) -> Passage:
        outcome = END.judge(attempt).permitted[0]
        return self._plain(passage(outcome, entry(outcome, attempt)))


def case(**fields: int) -> EntryCase:
    return EntryCase(replace(PLAIN, vmcs=PLAIN.vmcs.replace(fields)), "guest-64")


def ask(
    loop: FakeLoop, given: EntryCase, run: Callable[[Attempt], Judgement] = vm_entry
) -> dict[str, Finding]:
    always, others = loop_oracles(loop)
    found = [oracle.check(given, run) for oracle in (*always, *others)]
    return {finding.oracle: finding for finding in found if finding is not None}


LEGAL = case()
GUEST = case(guest_rflags=0xA)
CONTROLS = case(vm_exit_controls=0)
CASES = (LEGAL, GUEST, CONTROLS, case(host_cr3=1 << 60), case(guest_activity_state=1))


@pytest.mark.parametrize("given", CASES)
def test_what_is_right_is_no_finding(given: EntryCase) -> None:
    assert ask(FakeLoop(), given) == {}


def test_what_no_l1_can_show_kvm_does_not_run() -> None:
    loop = FakeLoop()
    outside = replace(PLAIN, processor=replace(PLAIN.processor, cs_l=False))
    assert ask(loop, EntryCase(outside)) == {}
    assert loop.asked == []


def test_an_attempt_runs_once_and_is_followed_only_by_those_that_cost_more() -> None:
    loop = FakeLoop()
    always, others = loop_oracles(loop)
    assert [oracle.check(LEGAL, vm_entry) for oracle in always] == [None, None, None]
    assert loop.asked == ["run"]
    assert not any(oracle.check(LEGAL, vm_entry) for oracle in others)
    assert sorted(loop.asked) == ["follow", "follow_dry", "run"]


def ends(outcome: Outcome) -> Fault:
    """Return the fault that a passage ends so, by the processor."""
    return lambda rightly: replace(
        passage(outcome, *rightly.dry_runs, entry(outcome)), l1_after=view(outcome)
    )


def by_kvm(outcome: Outcome) -> Fault:
    return lambda _: passage(outcome)


def l0(**changes: object) -> Fault:
    return lambda rightly: replace(rightly, l0_after=replace(L0, **changes))  # type: ignore[arg-type]


def l1(**changes: object) -> Fault:
    def planted(rightly: Passage) -> Passage:
        assert rightly.l1_after is not None
        return replace(rightly, l1_after=replace(rightly.l1_after, **changes))  # type: ignore[arg-type]

    return planted


def vmcs12(**fields: int) -> Fault:
    def planted(rightly: Passage) -> Passage:
        assert rightly.l1_after is not None
        return l1(vmcs=rightly.l1_after.vmcs.replace(fields))(rightly)

    return planted


def test_an_outcome_that_is_not_permitted() -> None:
    found = ask(FakeLoop(by_kvm(EXIT_33), by_kvm(EXIT_33)), LEGAL)
    assert found["entry.permitted-outcome"].site == ("exit 33 qualification 0: KVM, no check")
    found = ask(FakeLoop(ends(ENTERED), ends(ENTERED)), GUEST)
    assert found["entry.permitted-outcome"].rules == ("guest.rflags.reserved",)


def test_what_nobody_but_kvm_can_catch() -> None:
    given = case(host_cs_selector=0)
    found = ask(FakeLoop(ends(ENTERED), ends(ENTERED)), given)["entry.l0-owned"]
    assert (found.rules, found.site) == (("host.cs.not-null",), "host_cs_selector")
    assert "entry.l0-owned" not in ask(FakeLoop(by_kvm(EXIT_33), by_kvm(EXIT_33)), given)
    assert "entry.l0-owned" not in ask(FakeLoop(ends(ENTERED), ends(ENTERED)), GUEST)


@pytest.mark.parametrize(
    ("fault", "site"),
    [
        (ends(fail_valid(7)), "entered and fail-valid 7"),
        (by_kvm(EXIT_33), "entered and exit 33 qualification 0"),
        (l1(msrs=((0x174, 1), MSRS[1])), "entered: MSR 0x174"),
        (l1(registers=(("rip", 5), *REGISTERS[1:])), "entered: L1's rip"),
        (vmcs12(guest_rsp=1), "entered: vmcs12 guest_rsp"),
        (lambda _: Passage(Observation("died", reason="BUG")), "entered and died"),
    ],
)
def test_a_dry_run_that_shows(fault: Fault, site: str) -> None:
    found = ask(FakeLoop(dry=fault), LEGAL)
    assert found["entry.transparent"].site == site


def test_a_dry_run_that_changes_what_the_processor_is_given() -> None:
    def planted(rightly: Passage) -> Passage:
        other = replace(PLAIN, vmcs=PLAIN.vmcs.replace({"host_cr3": 0x9000}))
        return passage(ENTERED, *rightly.dry_runs, entry(ENTERED, other))

    assert ask(FakeLoop(dry=planted), LEGAL)["entry.transparent"].site == "entered: vmcs02 host_cr3"


DIED = Observation("died", reason="BUG arch/x86/kvm/x86.c:1")
WARNED = replace(observed(ENTERED), messages=(Message("WARN a.c:1", "WARN a.c:1"),))


@pytest.mark.parametrize("seen", [DIED, WARNED])
def test_a_kernel_that_does_not_get_over_it(seen: Observation) -> None:
    def planted(rightly: Passage) -> Passage:
        return replace(rightly, observation=seen)

    found = ask(FakeLoop(planted), LEGAL)["kvm.survives"]
    assert found.site == (seen.reason or "WARN a.c:1")
    assert ask(FakeLoop(dry=planted), LEGAL)["kvm.survives"].identity == found.identity


def test_what_a_processor_says_nothing_of_is_no_harm() -> None:
    def planted(rightly: Passage) -> Passage:
        return replace(rightly, observation=no_opinion("a panic"))

    assert "kvm.survives" not in ask(FakeLoop(planted, planted), LEGAL)


def test_a_late_vmfail_of_what_the_rules_let_pass() -> None:
    found = ask(FakeLoop(ends(fail_valid(7)), ends(fail_valid(7))), LEGAL)
    assert found["entry.vmcs02-sound"].site == "fail-valid 7"
    assert "entry.vmcs02-sound" in ask(FakeLoop(ends(fail_valid(7))), GUEST)


@pytest.mark.parametrize(
    ("fault", "changed"),
    [
        (vmcs12(vm_exit_intr_info=5), "vmcs12 vm_exit_intr_info"),
        (vmcs12(vm_entry_intr_info_field=5), "vmcs12 vm_entry_intr_info_field"),
        (vmcs12(guest_es_selector=5), "vmcs12 guest_es_selector"),
        (vmcs12(guest_rip=5), "vmcs12 guest_rip"),
        (l1(launched=True), "launch state"),
    ],
)
def test_a_failed_entry_that_changes_more(fault: Fault, changed: str) -> None:
    found = ask(FakeLoop(fault, fault), GUEST)
    assert found["entry.exit-info"].site == f"the processor's: {changed}"


def test_a_failed_entry_of_kvm_s_own_that_saves_guest_state() -> None:
    def planted(_: Passage) -> Passage:
        return vmcs12(guest_activity_state=5)(passage(EXIT_33))

    assert ask(FakeLoop(planted), case(guest_cr0=0))["entry.exit-info"].site == (
        "KVM's own: vmcs12 guest_activity_state"
    )
    assert "entry.exit-info" not in ask(FakeLoop(vmcs12(guest_activity_state=5)), GUEST)


def test_a_dry_run_that_enters() -> None:
    def planted(rightly: Passage) -> Passage:
        return replace(rightly, asked=(entry(ENTERED, dry=True), *rightly.entries))

    assert ask(FakeLoop(dry=planted), LEGAL)["entry.dry-run-exits"].site == "entered"


def test_a_vmfail_behind_a_dry_run() -> None:
    found = ask(FakeLoop(dry=ends(fail_valid(7))), LEGAL)
    assert found["entry.dry-run-sound"].site == "fail-valid 7"
    assert found["entry.dry-run-sound"].targets == ("cpu", "kvm-6.12+rules")


@pytest.mark.parametrize("given", [LEGAL, GUEST, CONTROLS])
@pytest.mark.parametrize(
    ("fault", "changed"),
    [
        (l0(registers=(*L0.registers[:2], ("rflags.if", 0))), "rflags.if"),
        (l0(registers=(L0.registers[0], ("dr7", 0x401), L0.registers[2])), "dr7"),
        (l0(registers=(("cr3", 0), *L0.registers[1:])), "cr3"),
        (l0(loaded="vmcs02"), "the loaded VMCS is vmcs02"),
    ],
)
def test_what_l0_does_not_get_back(given: EntryCase, fault: Fault, changed: str) -> None:
    found = ask(FakeLoop(dry=fault), given)
    assert found["entry.host-restored"].site.endswith(f": {changed}")
    assert "with a dry run" in found["entry.host-restored"].message
    assert "entry.host-restored" in ask(FakeLoop(plain=fault), given)


@pytest.mark.parametrize(
    "field",
    ["host_cr3", "host_cr4", "vm_exit_msr_load_count", "vm_entry_msr_load_count", "guest_gs_base"],
)
def test_vmcs01_after_a_vmfail(field: str) -> None:
    fault = l0(vmcs01=PLAIN.vmcs.replace({field: 0x77}))
    found = ask(FakeLoop(dry=fault), CONTROLS)["entry.host-restored"]
    assert found.site == f"VMfail by the dry run: vmcs01 {field}"
    seen = ask(FakeLoop(plain=fault), GUEST)
    assert ("entry.host-restored" in seen) == (field != "guest_gs_base")


def test_registers_of_l1_after_a_vmfail() -> None:
    for name in ("rip", "rsp", "efer"):
        registers = dict(view(fail_valid(7)).registers) | {name: 0x55}
        found = ask(FakeLoop(dry=l1(registers=tuple(registers.items()))), CONTROLS)
        assert found["entry.host-restored"].site == f"VMfail by the dry run: L1's {name}"


def test_guest_state_that_was_loaded_before_a_vmfail() -> None:
    fault = l1(msrs=((0x174, 0x10), MSRS[1]))
    found = ask(FakeLoop(dry=fault), CONTROLS)["entry.fail-before-state"]
    assert found.site == "VMfail by the dry run: MSR 0x174"
    found = ask(FakeLoop(dry=vmcs12(guest_rip=1)), CONTROLS)["entry.fail-before-state"]
    assert found.site == "VMfail by the dry run: vmcs12 guest_rip"
    planted = ask(FakeLoop(lambda _: fault(passage(fail_valid(7)))), CONTROLS)
    assert planted["entry.fail-before-state"].site == "VMfail by KVM: MSR 0x174"


def test_without_an_opinion_there_is_no_finding() -> None:
    nothing = Passage(not_representable("why"))
    assert ask(FakeLoop(lambda _: nothing, lambda _: nothing), GUEST) == {}
