# SPDX-License-Identifier: GPL-2.0-only
"""What is known of sessions is known by its cause: what is near it is not taken for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from nvmxfuzz.inputs.case import SessionCase
from nvmxfuzz.inputs.session_steps import SessionStep, session_step
from nvmxfuzz.inputs.world import world_on
from nvmxfuzz.oracles.session.known import known
from nvmxfuzz.oracles.session.oracles import breaches
from nvmxfuzz.oracles.session.play import Stage, play
from nvmxfuzz.oracles.session.witness import StepResult
from tests.oracles.toy_sessions import KERNEL, Fault, Toy

WORLD = world_on("skylake-x", KERNEL)
ENTRY = tuple(map(session_step, ("vmxon", "vmptrld", "prepare", "vmlaunch")))
EXTERNAL = session_step("l2-exit", exit="external-interrupt")
VMFAIL = session_step("l2-exit", exit="vmfail")
LEAVING = session_step("l2-exit", exit="cpuid")
IN_SMM = session_step("set-events", part="smi.smm", value=1)
MMU = "arch/x86/kvm/mmu/mmu.c:1"


def good(_toy: Toy, _step: SessionStep, result: StepResult) -> StepResult:
    return result


def names(steps: tuple[SessionStep, ...], fault: Fault) -> set[str]:
    """Return the entries that cover the breaches; of one that none covers, the breach."""
    found = set()
    for breach in breaches(play(Stage(Toy(fault)), SessionCase(WORLD, steps))):
        oracle, _, site = breach.partition(": ")
        entry = known(oracle, site, KERNEL)
        found.add(entry.name if entry else breach)
    return found


def lost_by(kind: str, **parts: Mapping[str, int]) -> Fault:
    """Return the fault that L1 has lost something where VMfail leaves L2, behind another step."""

    def fault(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
        if step.kind == "l2-exit" and step.chosen("exit") == "vmfail" and was(toy, kind):
            for part, values in parts.items():
                toy.edit(step.vcpu, part, **values)
        return result

    return fault


def was(toy: Toy, kind: str) -> bool:
    return any(step.kind == kind for step in toy.done)


OF_VMCS01 = {"regs": {"rip": 8}, "sregs": {"cr3": 0, "tr__base": 5}}
NEAR = {
    "a register that no VMCS holds": {"regs": {"rip": 8, "rax": 1}},
    "cr8": {"regs": {"rip": 8}, "sregs": {"cr8": 1}},
    "vmcs12": {"regs": {"rip": 8}, "vmcs12": {"guest_rip": 1}},
    "an event": {"regs": {"rip": 8}, "events": {"nmi__pending": 1}},
}


@pytest.mark.parametrize(
    ("kind", "entry"), [("rsm", "vmfail-after-smm"), ("restore", "vmfail-after-restore")]
)
def test_a_late_vmfail_is_known_by_what_vmcs01_holds(kind: str, entry: str) -> None:
    steps = (*ENTRY, EXTERNAL, VMFAIL)
    assert names(steps, good) == set()
    assert names(steps, lost_by(kind, **OF_VMCS01)) == {entry}
    for near, parts in NEAR.items():
        assert entry not in names(steps, lost_by(kind, **parts)), near
        assert len(names(steps, lost_by(kind, **parts))) == 1, near


@pytest.mark.parametrize("kind", ["rsm", "restore"])
def test_behind_an_exit_to_l1_vmcs01_is_l1_s(kind: str) -> None:
    steps = (*ENTRY, EXTERNAL, LEAVING, session_step("vmresume"), VMFAIL)
    found = names(steps, lost_by(kind, **OF_VMCS01))
    assert {each.rpartition(", ")[2] for each in found} == {"l2-exit vmfail: regs.rip"}


def test_another_exit_is_no_late_vmfail() -> None:
    def fault(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
        if step == LEAVING and was(toy, "rsm"):
            toy.edit(step.vcpu, "regs", rip=8)
        return result

    found = names((*ENTRY, EXTERNAL, LEAVING), fault)
    assert found == {"session.smm-round-trip: L2, l2-exit cpuid: regs.rip"}


def warns_at(kind: str) -> Fault:
    def fault(_toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
        return replace(result, warnings=(MMU,)) if step.kind == kind else result

    return fault


NO_EPT = session_step("vmwrite", field="secondary_vm_exec_control", value=0)
WITH_EPT = (
    session_step("vmwrite", field="cpu_based_vm_exec_control", value=0x8401_E172),
    session_step("vmwrite", field="secondary_vm_exec_control", value=2),
)


@pytest.mark.parametrize(
    ("steps", "kind", "is_known"),
    [
        ((IN_SMM, *ENTRY[:-1], *WITH_EPT, ENTRY[-1]), "vmlaunch", True),
        ((IN_SMM, *ENTRY[:-1], *WITH_EPT, NO_EPT, ENTRY[-1]), "vmlaunch", False),
        ((IN_SMM, *ENTRY[:-1], *WITH_EPT, ENTRY[-1]), "vmptrld", False),
        ((IN_SMM, *ENTRY[:-1], *WITH_EPT, session_step("run")), "run", False),
        ((*ENTRY[:-1], *WITH_EPT, ENTRY[-1]), "vmlaunch", False),
    ],
)
def test_a_warning_of_the_mmu_in_smm_is_known_of_the_entry_of_an_l2_with_ept(
    steps: tuple[SessionStep, ...], kind: str, is_known: bool
) -> None:
    assert (names(steps, warns_at(kind)) == {"ept-in-smm"}) == is_known
    assert names(steps, warns_at(kind))


def test_of_an_l2_in_smm_no_triple_fault_is_asked() -> None:
    broken = session_step("set-segment", segment="ss", part="type", value=11)
    world = replace(WORLD, parameters=(("unrestricted_guest", 0),))

    def fault(_toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
        return replace(result, outcome="smm") if step.kind == "run" else result

    for begin, silent in (((IN_SMM,), True), ((), False)):
        case = SessionCase(world, (*begin, *ENTRY, EXTERNAL, broken, session_step("run")))
        found = breaches(play(Stage(Toy(fault)), case))
        assert ("session.triple-fault: active" not in found) == silent


@pytest.mark.parametrize(
    ("address", "fixed1", "permitted"),
    [
        (1 << 47, 0x1000, ("done", "vmfail-valid 28")),
        (1 << 47, 0, ("vmfail-valid 28",)),
        (1 << 56, 0x1000, ("vmfail-valid 28",)),
        ((1 << 47) - 1, 0x1000, ("done",)),
        ((1 << 64) - (1 << 47), 0, ("done",)),
    ],
)
def test_on_a_processor_of_57_bits_invvpid_may_have_either_width(
    address: int, fixed1: int, permitted: tuple[str, ...]
) -> None:
    steps = (*ENTRY[:-1], session_step("invvpid", type=0, vpid=1, address=address))

    class Wide(Toy):
        """Its linear addresses are as wide as IA32_VMX_CR4_FIXED1 says."""

        def renew(self) -> None:
            """Have two new vCPUs."""
            super().renew()
            for vcpu in (0, 1):
                self.edit(vcpu, "msrs", IA32_VMX_CR4_FIXED1=0x37_27FF & ~0x1000 | fixed1)

    for outcome in ("done", "vmfail-valid 28", "fault 13"):

        def fault(
            _toy: Toy, step: SessionStep, result: StepResult, outcome: str = outcome
        ) -> StepResult:
            return replace(result, outcome=outcome) if step.kind == "invvpid" else result

        played = play(Stage(Wide(fault)), SessionCase(WORLD, steps))
        silent = not any("invvpid" in breach for breach in breaches(played))
        assert silent == (outcome in permitted)


@pytest.mark.parametrize(("number", "is_known"), [(2, True), (0x101, False), (1, False)])
def test_an_order_of_events_is_known_of_several_nmis(number: int, is_known: bool) -> None:
    nmis = session_step("set-events", part="nmi.pending", value=number)
    steps = (session_step("set-events", part="interrupt.shadow", value=1), nmis)

    def fault(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
        swapped = step.kind == "run" and toy.done[-2] != nmis
        return replace(result, outcome="exit 0") if swapped else result

    case = SessionCase(WORLD, (*ENTRY, EXTERNAL, *steps, session_step("run")))
    found = [each for each in breaches(play(Stage(Toy(fault)), case)) if "session.order" in each]
    assert [known(*each.split(": ", 1), "6.1") is not None for each in found] == [is_known]


def initialises(cr3: int, **others: int) -> Fault:
    """Return the fault that after INIT a run gives CR3 that value, and others theirs."""

    def fault(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
        if step.kind == "init":
            toy.edit(step.vcpu, "sregs", cr3=0)
            toy.edit(step.vcpu, "regs", rip=0xFFF0)
        if step.kind == "run":
            toy.edit(step.vcpu, "sregs", cr3=cr3, **others)
        return result

    return fault


@pytest.mark.parametrize(
    ("paging", "fault", "found"),
    [
        (0, initialises(0x41000), {"cr3-before-init"}),
        (0, initialises(0x42000), {"session.run-changes-nothing: sregs.cr3"}),
        (1 << 31, initialises(0x41000), {"session.run-changes-nothing: sregs.cr3"}),
        (0, initialises(0x41000, cr8=1), {"session.run-changes-nothing: sregs.cr3"}),
        (0, initialises(0), set()),
    ],
)
def test_a_run_gives_back_cr3_of_before_init_and_nothing_else(
    paging: int, fault: Fault, found: set[str]
) -> None:
    off = session_step("set-sregs", register="cr0", flip=paging | 0x31)
    assert names((off, session_step("init"), session_step("run")), fault) == found


def test_an_interrupt_that_is_pending_may_change_everything() -> None:
    for step, found in (("interrupt", 0), ("set-lapic", 0), ("nmi", 1)):
        steps = (session_step(step), session_step("run"))
        assert len(names(steps, initialises(1))) == found


@pytest.mark.parametrize(("errno", "is_known"), [(-22, True), (0, False)])
def test_a_nested_state_is_known_to_be_refused_behind_another_one(
    errno: int, is_known: bool
) -> None:
    first = session_step("set-nested-state", part="vmcs12", flip=1)
    back = (session_step("save"), session_step("restore"))

    def fault(_toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
        if step == first:
            return replace(result, errno=errno)
        return replace(result, errno=-22) if step == back[1] else result

    breach = "session.ioctl-accepts: restore a"
    behind = f"{breach}, after a nested state that was refused"
    steps = (*ENTRY, EXTERNAL, session_step("save"), first, *back)
    found = breaches(play(Stage(Toy(fault)), SessionCase(WORLD, steps)))
    assert (behind in found, breach in found) == (is_known, not is_known)
    assert known("session.ioctl-accepts", behind.partition(": ")[2], KERNEL)
    assert known("session.ioctl-accepts", breach.partition(": ")[2], KERNEL) is None


@pytest.mark.parametrize(
    ("eptp", "permitted"),
    [
        (1 << 35 | 0x1E, ("done",)),
        (1 << 36 | 0x1E, ("done", "vmfail-valid 28")),
        (1 << 51 | 0x1E, ("done", "vmfail-valid 28")),
        (1 << 52 | 0x1E, ("vmfail-valid 28",)),
    ],
)
def test_an_eptp_may_be_beyond_what_the_processor_has(
    eptp: int, permitted: tuple[str, ...]
) -> None:
    steps = (*ENTRY[:-1], session_step("invept", type=1, eptp=eptp))
    for outcome in ("done", "vmfail-valid 28", "fault 13"):

        def fault(
            _toy: Toy, step: SessionStep, result: StepResult, outcome: str = outcome
        ) -> StepResult:
            return replace(result, outcome=outcome) if step.kind == "invept" else result

        found = breaches(play(Stage(Toy(fault)), SessionCase(WORLD, steps)))
        silent = not any("invept" in breach for breach in found)
        assert silent == (outcome in permitted)


@pytest.mark.parametrize(("flags", "silent"), [(9, True), (1, False)])
def test_a_pending_monitor_trap_comes_before_an_invalid_l2(flags: int, silent: bool) -> None:
    broken = session_step("set-segment", segment="ss", part="type", value=11)
    world = replace(WORLD, parameters=(("unrestricted_guest", 0),))

    def fault(toy: Toy, step: SessionStep, result: StepResult) -> StepResult:
        if step == broken:
            toy.edit(step.vcpu, "nested", flags=flags)
        return replace(result, outcome="exit 37") if step.kind == "run" else result

    case = SessionCase(world, (*ENTRY, EXTERNAL, broken, session_step("run")))
    found = breaches(play(Stage(Toy(fault)), case))
    assert ("session.triple-fault: active" not in found) == silent


def test_an_l2_without_page_tables_ends_by_whatever_runs_it() -> None:
    for kind in ("run", "vmwrite", "l2-exit io"):
        site = f"valid {kind}, page tables in no memory"
        assert known("session.triple-fault", site, "6.1")
        assert known("session.triple-fault", site, "6.12") is None
