# SPDX-License-Identifier: GPL-2.0-only
"""How a chapter judges: conditions, views, what is not known, and the order of the stages."""

from nvmxfuzz.cpu.chapter import Chapter
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.failures import CONTROLS, GUEST_STATE, HOST_STATE, MSR_LOADING
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.rule import UNKNOWN, Section, Verdict
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, exit_on_entry, fail_valid
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.machine.vmcs import Vmcs


def _slots(entry: Entry) -> list[int]:
    return [int(digit) for digit in str(entry.vmcs.guest_rip)] if entry.vmcs.guest_rip else []


def _wants_host(entry: Entry) -> bool:
    return entry.vmcs.host_rip != 0


def _chapter() -> Chapter:
    controls = Section("Controls", CONTROLS)
    host = Section("Host", HOST_STATE)
    guest = Section("Guest", GUEST_STATE)
    loading = Section("Loading", MSR_LOADING)

    @controls.rule("a.control")
    def control(entry: Entry) -> bool:
        """The pin-based controls are 0."""
        return entry.pin == 0

    @host.rule("b.host", when=_wants_host)
    def host_rip(entry: Entry) -> bool:
        """Host RIP is 1 if it is given."""
        return entry.vmcs.host_rip == 1

    @guest.rule("c.guest")
    def guest_rsp(entry: Entry) -> Verdict:
        """Guest RSP is not 1; it is not known whether it may be 2."""
        return UNKNOWN if entry.vmcs.guest_rsp == 2 else entry.vmcs.guest_rsp != 1

    @loading.rule("d.slot", view="slots")
    def slot(digit: int) -> Verdict:
        """A slot is not 9; it is not known whether it may be 8."""
        return UNKNOWN if digit == 8 else digit != 9

    return Chapter((controls, host, guest, loading), {"slots": _slots})


CHAPTER = _chapter()


def judge(**fields: int) -> Judgement:
    return CHAPTER.judge(Entry(Attempt(load_profile("skylake-x"), Vmcs(fields))))


def verdicts(judgement: Judgement) -> list[str]:
    return [judgement.verdict(index) for index in range(len(CHAPTER.rules))]


def test_nothing_broken_is_an_entry() -> None:
    judgement = judge()
    assert verdicts(judgement) == ["held", "n/a", "held", "n/a"]
    assert judgement.permitted == (ENTERED,)


def test_controls_and_host_come_in_any_order_and_before_the_guest() -> None:
    judgement = judge(pin_based_vm_exec_control=1, host_rip=2, guest_rsp=1)
    assert judgement.broken_names == ("a.control", "b.host", "c.guest")
    assert judgement.permitted == (fail_valid(7), fail_valid(8))


def test_what_is_not_known_permits_both() -> None:
    judgement = judge(guest_rsp=2)
    assert judgement.unknown_names == ("c.guest",)
    assert judgement.permitted == (ENTERED, exit_on_entry(33))


def test_what_is_not_known_late_does_not_matter_after_an_early_failure() -> None:
    assert judge(pin_based_vm_exec_control=1, guest_rsp=2).permitted == (fail_valid(7),)


def test_what_is_not_known_early_leaves_the_later_failure_possible() -> None:
    assert judge(guest_rsp=2, guest_rip=19).permitted == (exit_on_entry(33), exit_on_entry(34, 2))


def test_a_list_is_judged_up_to_its_first_broken_entry() -> None:
    judgement = judge(guest_rip=18989)
    assert judgement.broken_names == ("d.slot",)
    assert judgement.unknown_names == ("d.slot",)
    assert judgement.permitted == (exit_on_entry(34, 2), exit_on_entry(34, 3))
    assert verdicts(judgement)[3] == "broken"
