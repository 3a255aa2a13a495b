# SPDX-License-Identifier: GPL-2.0-only
"""What is said of a dump: the rules, on what they rest, and the causes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.failures import GUEST_STATE
from nvmxfuzz.cpu.vm_entry import CHAPTER
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.dumps import read_dumps
from nvmxfuzz.inputs.dumps.dump import Dump
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.triage.explain import Explanation, explain
from nvmxfuzz.triage.explain.hypotheses import RESTRICTED, Hypothesis, hypotheses
from nvmxfuzz.triage.explain.known import KnownEntry, NotKnown
from nvmxfuzz.triage.explain.processors import MOST_LENIENT, STRICTEST, processors
from nvmxfuzz.triage.explain.verdicts import judge

FOLDER = Path(__file__).parent / "dumps"
VECTORS = Path(__file__).parents[2] / "corpus" / "vectors"
KVM = (FOLDER / "kvm-6.12.log").read_text()
QEMU_32 = (FOLDER / "qemu-32.log").read_text()
QEMU_64 = (FOLDER / "qemu-64.log").read_text()


def edited(text: str, *edits: tuple[str, str]) -> Explanation:
    """Explain a log in which each first text of a pair is the second."""
    for before, after in edits:
        assert before in text, before
        text = text.replace(before, after, 1)
    (dump,) = read_dumps(text.encode())
    return explain(dump)


def names(explanation: Explanation) -> set[str]:
    return {one.rule.name for one in explanation.broken}


# ---------------------------------------------------------------------- rules


def test_a_legal_state_breaks_nothing() -> None:
    found = edited(KVM)
    assert not found.broken
    assert not found.depends
    assert {one.missing for one in found.unknown} == {("vmcs_link_pointer",)}


def test_a_broken_rule_comes_with_the_fields_that_break_it() -> None:
    ss = "SS:   sel=0x0018, attr=0x0c0"
    found = edited(KVM, (f"{ss}93", f"{ss}f3"))
    values = {one.rule.name: one.values for one in found.broken}
    assert values == {
        "guest.cs.dpl-non-conforming": {"guest_cs_ar_bytes": 0xA09B, "guest_ss_ar_bytes": 0xC0F3}
    }


def test_what_depends_on_the_processor_says_on_which() -> None:
    found = edited(KVM, ("CR3 = 0x0000000000040000", "CR3 = 0x0000080000040000"))
    (width,) = found.depends
    assert width.rule.name == "guest.cr3.width"
    assert width.values == {"guest_cr3": 0x0000_0800_0004_0000}
    assert STRICTEST in width.broken_if
    assert MOST_LENIENT in width.held_if
    assert not width.likely or set(width.held_if) == {MOST_LENIENT}
    (dump,) = read_dumps(KVM.replace("CR3 = 0x00000000", "CR3 = 0x00000800", 1).encode())
    assert names(explain(dump, load_profile("skylake-x"))) == {"guest.cr3.width"}
    assert not explain(dump, load_profile("sapphire-rapids")).broken or (
        load_profile("sapphire-rapids").maxphyaddr < 44
    )


def test_a_rule_whose_inputs_are_not_printed_is_unknown_whatever_else_is_broken() -> None:
    found = edited(KVM, ("RFLAGS=0x00000002", "RFLAGS=0x0000000a"))
    assert names(found) == {"guest.rflags.reserved"}
    unknown = {one.rule.name for one in found.unknown}
    assert "guest.link-pointer.aligned" in unknown


def test_without_controls_nothing_is_said_that_depends_on_them() -> None:
    (dump,) = read_dumps(KVM.partition("*** Host State")[0].encode())
    found = explain(dump)
    assert dump.parts == ("guest",)
    assert not found.broken
    missing = {one.rule.name: one.missing for one in found.unknown}
    assert missing["guest.cr0.pg"] == ("vm_entry_controls",)
    assert "cut off" in found.assumptions[-1]


def test_checks_that_came_before_the_failure_are_passed() -> None:
    odd = ("EntryControls=0000d3ff", "EntryControls=8000d3ff")
    assert not names(edited(KVM, odd))
    failed_early = (
        "reason=80000021",
        "reason=00000001",
    )
    found = edited(KVM, odd, failed_early)
    broken = {one.rule.name for one in (*found.broken, *found.depends)}
    assert "entry.controls.may-be-1" in broken
    assert found.reported is None


def test_a_rule_of_another_stage_is_marked() -> None:
    found = edited(KVM, ("TR=0040", "TR=0000"))
    (tr,) = found.broken
    assert tr.rule.name == "host.tr.not-null"
    assert str(tr.rule.failure.outcome) == "fail-valid 8"


@pytest.mark.parametrize("profile", ["skylake-x", "everything"])
def test_a_dump_of_all_fields_is_judged_as_the_entry_is(profile: str) -> None:
    """The plain judgement and this one agree where everything is known that is in a VMCS."""
    for path in sorted(VECTORS.glob("guest-*/*/broken.toml"))[::3]:
        case = load_case(path.read_bytes(), str(path))
        assert isinstance(case, EntryCase)
        attempt = case.attempt
        if attempt.profile.name != profile:
            continue
        considered = [Hypothesis(attempt.profile, attempt.vmcs.items())]
        plain = CHAPTER.judge(Entry(attempt))
        for one in judge(Dump("kvm", 1, attempt.vmcs.items()), considered):
            expected = plain.verdict(CHAPTER.index[one.rule.name])
            if one.verdict == "broken":
                assert expected == "broken", (path, one)
            elif one.verdict == "fine":
                assert expected in ("held", "n/a"), (path, one)
            else:
                assert one.missing or expected == "unknown", (path, one)


def test_a_field_that_is_missing_is_never_made_up() -> None:
    """Planted: each field in turn is taken out, and whatever rule then still answers, agrees."""
    case = base("guest-64", load_profile("everything"))
    whole = case.vmcs.items()
    considered = [Hypothesis(case.profile, whole)]
    before = {one.rule.name: one.verdict for one in judge(Dump("kvm", 1, whole), considered)}
    for field in FIELDS[::5]:
        less = {name: value for name, value in whole.items() if name != field.name}
        after = judge(Dump("kvm", 1, less), [Hypothesis(case.profile, less)])
        for one in after:
            assert one.verdict in (before[one.rule.name], "unknown")
            assert (
                one.verdict != "unknown"
                or before[one.rule.name] == "unknown"
                or (one.missing == (field.name,))
            )


def test_a_word_is_known_if_the_missing_part_cannot_change_it() -> None:
    entry = KnownEntry(load_profile("everything"), {"cpu_based_vm_exec_control": 0})
    assert entry.secondary == 0
    with pytest.raises(NotKnown, match="vm_entry_controls"):
        _ = entry.ia32e_guest
    active = KnownEntry(load_profile("everything"), {"cpu_based_vm_exec_control": 1 << 31})
    with pytest.raises(NotKnown, match="secondary_vm_exec_control"):
        _ = active.secondary


def test_the_corners_are_around_the_published_processors() -> None:
    (dump,) = read_dumps(KVM.encode())
    strict, lenient, *published = processors(dump.fields, controls_passed=True)
    assert (strict.name, lenient.name) == (STRICTEST, MOST_LENIENT)
    assert "skylake-x" in {profile.name for profile in published}
    for profile in published:
        assert strict.maxphyaddr <= profile.maxphyaddr <= lenient.maxphyaddr
        assert strict.features <= profile.features <= lenient.features
        assert not strict.caps.cr4_fixed1 & ~(profile.caps.cr4_fixed1 | 0x3726F0)
        assert not profile.caps.cr4_fixed1 & ~lenient.caps.cr4_fixed1
    for corner in (strict, lenient):
        assert not dump.fields["vm_entry_controls"] & ~corner.caps.entry_may
        assert not corner.caps.entry_must & ~dump.fields["vm_entry_controls"]


# ---------------------------------------------------------------------- QEMU


def test_qemu_does_not_tell_whether_the_guest_is_unrestricted() -> None:
    found = edited(QEMU_32)
    assert not found.broken
    conditions = {one.rule.name: one.broken_if for one in found.depends}
    assert conditions["guest.cs.v8086-base"] == (RESTRICTED,)
    assert conditions["guest.ss.v8086-limit"] == (RESTRICTED,)
    assert "guest.es.v8086-access-rights" not in conditions
    assert [cause.name for cause in found.causes] == ["restricted-guest"]
    (dump,) = read_dumps(QEMU_32.encode())
    assert "guest.cs.v8086-base" in names(explain(dump, load_profile("penryn")))


def test_registers_of_a_64_bit_guest_are_judged() -> None:
    found = edited(QEMU_64)
    assert names(found) == {"guest.cs.dpl-non-conforming", "guest.tr.type-ia-32e"}
    assert [cause.name for cause in found.causes] == ["task-register", "mixed-privilege"]
    assert {one.rule.name for one in found.judged} <= {
        rule.name for rule in CHAPTER.rules if rule.failure.stage == GUEST_STATE.stage
    }


def test_a_legal_guest_of_qemu_breaks_nothing() -> None:
    found = edited(QEMU_64, ("00c0f300 DPL=3", "00c09300 DPL=0"), ("00008900", "00008b00"))
    assert not found.broken
    assert not found.depends


def test_both_kinds_of_guest_are_considered_where_the_processor_has_both() -> None:
    (dump,) = read_dumps(QEMU_64.encode())
    assert len(list(hypotheses(dump, load_profile("skylake-x")))) == 2
    assert [one.guest for one in hypotheses(dump, load_profile("penryn"))] == [RESTRICTED]


# ---------------------------------------------------------------------- causes

SS_3 = ("SS:   sel=0x0018, attr=0x0c093", "SS:   sel=0x001b, attr=0x0c0f3")
RESTRICTED_KVM = (("SecondaryExec=0x021017eb", "SecondaryExec=0x0210176b"),)
CAUSES: dict[str, tuple[tuple[str, str], ...]] = {
    "smi-in-shadow": (
        ("Interruptibility = 00000000", "Interruptibility = 00000009"),
        ("RIP = 0x0000000000007c00", "RIP = 0x0000000000008000"),
    ),
    "restricted-real-mode": (
        *RESTRICTED_KVM,
        ("RFLAGS=0x00000002", "RFLAGS=0x00023002"),
        ("EntryControls=0000d3ff", "EntryControls=0000d1ff"),
    ),
    "restricted-segments": (*RESTRICTED_KVM, ("SS:   sel=0x0018", "SS:   sel=0x0019")),
    "single-step-in-shadow": (
        ("RFLAGS=0x00000002", "RFLAGS=0x00000302"),
        ("Interruptibility = 00000000", "Interruptibility = 00000001"),
    ),
    "shadow-without-if": (("Interruptibility = 00000000", "Interruptibility = 00000001"),),
    "nmi-in-sti-shadow": (("qualification=0000000000000000", "qualification=0000000000000003"),),
    "blocked-event": (("VMEntry: intr_info=00000000", "VMEntry: intr_info=80000020"),),
    "task-register": (("attr=0x0008b", "attr=0x00089"),),
    "real-mode-privilege": (
        ("CR0: actual=0x0000000080050033", "CR0: actual=0x0000000000000030"),
        ("EntryControls=0000d3ff", "EntryControls=0000d1ff"),
        ("EFER= 0x0000000000000d01", "EFER= 0x0000000000000000"),
        SS_3,
    ),
    "mixed-privilege": (SS_3,),
    "granularity": (("limit=0x00000067", "limit=0x00100067"),),
    "code-segment": (("attr=0x0a09b", "attr=0x0e09b"),),
    "descriptor": (("attr=0x0c093", "attr=0x0c092"),),
    "rflags-bit-1": (("RFLAGS=0x00000002", "RFLAGS=0x00000000"),),
    "rflags-reserved": (("RFLAGS=0x00000002", "RFLAGS=0x0000000a"),),
    "virtual-8086": (("RFLAGS=0x00000002", "RFLAGS=0x00020002"),),
    "mode": (("CR4: actual=0x0000000000002020", "CR4: actual=0x0000000000002000"),),
    "another-processor": (("CR4: actual=0x0000000000002020", "CR4: actual=0x0000000100002020"),),
    "not-canonical": (("base=0x0000000000009000", "base=0x8000000000009000"),),
    "registers": (("PAT = 0x0007040600070406", "PAT = 0x0007040600070402"),),
    "pdptes": (
        ("EntryControls=0000d3ff", "EntryControls=0000d1ff"),
        ("EFER= 0x0000000000000d01", "EFER= 0x0000000000000000"),
        ("PDPTR2 = 0x0000000000052001", "PDPTR2 = 0x0000000000052007"),
    ),
    "link-pointer": (("qualification=0000000000000000", "qualification=0000000000000004"),),
    "msr-loading": (("reason=80000021", "reason=80000022"),),
    "machine-check": (("reason=80000021", "reason=80000029"),),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_is_named_where_it_is_one(cause: str) -> None:
    found = edited(KVM, *CAUSES[cause])
    assert cause in [one.name for one in found.causes]
    assert not edited(KVM).causes
    for one in found.causes:
        assert one.evidence
        assert not one.evidence.endswith(".")
        assert one.sentence.endswith(".")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("KVM: entry failed, hardware error 0xffffffff", "amd"),
        ("KVM: entry failed, hardware error 0x7", "controls"),
        ("KVM: entry failed, hardware error 0x8", "host-state"),
        ("KVM internal error. Suberror: 1", "emulation-failure"),
        ("KVM internal error. Suberror: 3", "internal-error"),
        (
            QEMU_64.replace("RIP=ffffffff81000000", "RIP=0000000000008000")
            .replace("SMM=0", "SMM=1")
            .replace("00c0f300 DPL=3", "00c09300 DPL=0")
            .replace("00008900", "00008b00"),
            "smi-in-shadow",
        ),
    ],
)
def test_errors_have_causes_of_their_own(text: str, cause: str) -> None:
    (dump,) = read_dumps(text.encode())
    assert [one.name for one in explain(dump).causes] == [cause]


def test_no_cause_is_without_a_test() -> None:
    source = (Path(__file__).parents[2] / "nvmxfuzz/triage/explain/causes.py").read_text()
    catalogue = set(
        re.findall(r'^        "([a-z0-9-]+)",\n        evidence\.', source, re.MULTILINE)
    )
    tested = {*CAUSES, "amd", "controls", "host-state", "emulation-failure", "internal-error"}
    assert catalogue == {*tested, "restricted-guest"}


def test_the_entry_of_the_list_that_did_not_load_is_named() -> None:
    lists = (
        "MSR guest autoload:\n   0: msr=0x00000277 value=0x0007040600070406\n"
        "   1: msr=0xc0000100 value=0x0000000000000000\n"
    )
    found = edited(
        KVM,
        ("[ 673.902718] kvm_intel: *** Host", lists + "*** Host"),
        ("reason=80000021 qualification=0000000000000000",
         "reason=80000022 qualification=0000000000000002"),
    )  # fmt: skip
    (slot,) = found.broken
    assert (slot.rule.name, slot.position) == ("msr-load.slot.fs-base", 2)
    (cause,) = found.causes
    assert cause.evidence == "entry 2 of the list that VM entry loads is MSR 0xc0000100 = 0x0"
