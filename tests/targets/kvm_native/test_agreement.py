# SPDX-License-Identifier: GPL-2.0-only
"""The model of nested VM entry against KVM itself, and against it with faults planted."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice
from random import Random
from typing import TypeAlias

import pytest

from nvmxfuzz.arch.controls import Pin, Secondary, VmExit
from nvmxfuzz.arch.events import Activity
from nvmxfuzz.arch.registers import Cr4, Efer
from nvmxfuzz.campaign.plan import corpus_files
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.inputs.rebase import rebase
from nvmxfuzz.kvm import nested_enter, vmcs02, vmcs02_early
from nvmxfuzz.kvm.nested_enter import vm_entry
from nvmxfuzz.kvm.traced_checks import SITES
from nvmxfuzz.kvm.vcpu import Kvm, Vcpu
from nvmxfuzz.kvm.vmcs02_fields import FieldCopy, copy_rare
from nvmxfuzz.machine.outcome import ENTERED, Outcome, exit_on_entry, fail_valid
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.oracles.kvm.l1 import unmet
from nvmxfuzz.oracles.kvm.model import Both, RealEntry, agreement, compare
from nvmxfuzz.targets.kvm_native.agreement.configuration import Configuration
from nvmxfuzz.targets.kvm_native.agreement.launch import Launch
from nvmxfuzz.targets.kvm_native.agreement.random_case import random_configuration, random_launch
from nvmxfuzz.targets.kvm_native.agreement.random_vmcs import ALL
from nvmxfuzz.targets.kvm_native.agreement.witness import EntryWitness
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.vm import RAM
from nvmxfuzz.targets.kvm_native.vmcs12 import REVISION

ENTRIES = 1500
OF_ONE = 50
CORPUS = next(corpus_files("vm_entry")).parents[2]
HOSTS = ("everything", "skylake-x", "sapphire-rapids")
PLAIN = Configuration(load_profile("skylake-x"))
ENLIGHTENED = replace(PLAIN, evmcs=True)
DRY = replace(PLAIN, parameters=(("nested_early_check", 1),))
EPT_VPID_CAP = 0x48C
EPT = {
    "cpu_based_vm_exec_control": 0x8400_6172,
    "secondary_vm_exec_control": int(Secondary.ENABLE_EPT),
    "ept_pointer": 0x801E,
}
LOADS = {"vm_entry_msr_load_count": 2, "vm_entry_msr_load_addr": 0x2_0000}
STORES = {"vm_exit_msr_store_count": 1, "vm_exit_msr_store_addr": 0x2_0000}
FAILED = exit_on_entry(33, 0)


Memory: TypeAlias = tuple[tuple[int, bytes], ...]


def msr_list(*entries: tuple[int, int]) -> Memory:
    """Return the memory that a list of MSRs is in."""
    packed = b"".join(struct.pack("<QQ", index, value) for index, value in entries)
    return ((0x2_0000, packed),)


SPECIAL: list[tuple[Configuration, dict[str, int], Memory, tuple[Outcome, ...]]] = [
    (ENLIGHTENED, {"pin_based_vm_exec_control": 0x56}, (), ()),
    (ENLIGHTENED, {**EPT, "secondary_vm_exec_control": 0x0200_0002}, (), ()),
    (ENLIGHTENED, {"vm_function_control": 1}, (), ()),
    (replace(PLAIN, msrs=((EPT_VPID_CAP, ALL ^ 1 << 6),)), EPT, (), ()),
    (replace(PLAIN, msrs=((EPT_VPID_CAP, ALL ^ 1 << 14),)), EPT, (), ()),
    (PLAIN, LOADS, msr_list((0x1B, 0xFEE0_0D00), (0x808, 0)), ()),
    (PLAIN, STORES, msr_list((0x9E, 0)), ()),
    (PLAIN, {}, (), (fail_valid(7),)),
    (DRY, {}, (), (fail_valid(7), FAILED)),
]
"""Configurations, changes of vmcs12, memory and answers for what no case of the corpus can say."""

NEVER_FAIL = {
    # The kernel allows all of these, or something else fails before.
    *("evmcs.primary.supported", "evmcs.entry.supported", "evmcs.exit.supported"),
    # Only an L1 that uses the enlightened VMCS has one with a revision.
    "evmcs.revision.known",
    # KVM offers neither the control nor CET.
    *("execution.mode-based-execute.ept", "guest.cet.write-protect", "host.cet.write-protect"),
    # It takes two VM entries: test_a_link_pointer_without_memory_spoils_the_next_one.
    "guest.link-pointer.read",
}
"""Checks that are traced and that nothing here makes fail."""

Found: TypeAlias = Counter[str]


@pytest.fixture
def real(library: Library, built: BuiltObject) -> EntryWitness:
    return EntryWitness(library, built.kernel)


def lives(real: EntryWitness, seed: str) -> Iterator[Random]:
    for number in range(10_000):
        source = Random(f"{seed}/{number}")
        try:
            real.configure(random_configuration(source))
        except IoctlError:
            continue
        yield source


def entries(real: EntryWitness, seed: str = "test") -> Iterator[Both]:
    """Yield random VM entries on random KVMs."""
    for source in lives(real, seed):
        for _ in range(OF_ONE):
            yield real.enter(random_launch(source, real.kvm, real.capabilities))


def differences(real: EntryWitness, count: int = ENTRIES) -> Found:
    found: Found = Counter()
    for both in islice(entries(real), count):
        found.update(f"{what}: {where}" for what, where, _ in compare(both).differences)
    return found


def test_random_entries_agree(real: EntryWitness) -> None:
    decided: Found = Counter()
    for both in islice(entries(real), ENTRIES):
        found = compare(both)
        assert not found.differences
        decided[both.model.check] += 1
    assert len(decided) > 60
    assert decided[""] > ENTRIES / 20


@pytest.mark.parametrize(
    "answers",
    [
        (ENTERED,),
        (fail_valid(7),),
        (exit_on_entry(33, 0),),
        (exit_on_entry(34, 2),),
    ],
)
def test_what_the_processor_answers(real: EntryWitness, answers: tuple[Outcome, ...]) -> None:
    real.configure(PLAIN)
    launch = Launch(plain_vmcs(real), answers=answers)
    both = real.enter(launch)
    assert both.model.outcome == answers[0]
    assert compare(both).relation == "agreed"
    assert len(both.model.hardware) == 1


@pytest.mark.parametrize("first", [exit_on_entry(33, 0), fail_valid(7), ENTERED])
def test_the_dry_run(real: EntryWitness, first: Outcome) -> None:
    real.configure(DRY)
    both = real.enter(Launch(plain_vmcs(real), answers=(first, ENTERED)))
    assert both.model.outcome == (first if first.kind == "fail-valid" else ENTERED)
    assert both.model.hardware[0].dry_run
    assert compare(both).relation == "agreed"


def plain_vmcs(real: EntryWitness) -> Vmcs:
    source = Random(1)
    while True:
        launch = random_launch(source, real.kvm, real.capabilities)
        launch = replace(launch, answers=(), memory=())
        if real.kvm.params.early_consistency_checks:
            launch = replace(launch, answers=(exit_on_entry(33, 0), ENTERED))
        seen = real.enter(launch)
        real.renew()
        if seen.model.outcome == ENTERED and not launch.vmcs12.guest_activity_state:
            return launch.vmcs12


def corpus(kernel: str) -> list[EntryCase]:
    """Return all cases of VM entry, on their own processor and on three that KVM made."""
    found = []
    for path in (*corpus_files("vm_entry"), *CORPUS.rglob("*.toml")):
        case = load_case(path.read_bytes(), str(path))
        if isinstance(case, EntryCase):
            found.append(case)
            for name in HOSTS:
                again = rebase(case, (f"kvm-{kernel}-{name}",))
                assert isinstance(again, EntryCase)
                found.append(again)
    return sorted(found, key=lambda case: case.profile.name)


def test_the_corpus_agrees_and_fails_each_check(real: EntryWitness) -> None:
    decided = special_cases(real)
    asked = 0
    for case in corpus(real.kernel):
        if unmet(replace(case.attempt, profile=real.virtual(case.profile))):
            continue
        both = real.both(case.attempt)
        if isinstance(both, Both):
            asked += 1
            assert compare(both).relation == "agreed", case
            decided.update((both.model.check, *both.model.fired))
    assert asked > 10_000
    assert decided[""] > 1000
    assert set(chain(*SITES.values())) - set(decided) == NEVER_FAIL


def test_the_oracle_asks_kvm_itself(real: EntryWitness, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = agreement(real)
    attempt = base("guest-64", load_profile(f"kvm-{real.kernel}-skylake-x"))
    broken = replace(attempt, vmcs=attempt.vmcs.replace({"host_cs_selector": 0}))
    cases = [EntryCase(attempt), EntryCase(broken)]
    assert [oracle.check(case, no_judgement) for case in cases] == [None, None]
    monkeypatch.setattr(nested_enter, "nested_vmx_check_host_state", lambda *_: "")
    assert oracle.check(cases[0], no_judgement) is None
    found = oracle.check(cases[1], no_judgement)
    assert found is not None
    assert (found.rules, found.site) == (("outcome",), "entered")
    assert found.targets == (f"kvm-model-{real.kernel}", real.name)


def special_cases(real: EntryWitness) -> Found:
    """Return the checks that fail where it takes more than an attempt, on both sides."""
    decided: Found = Counter()
    for configuration, edits, memory, answers in SPECIAL:
        real.configure(configuration)
        vmcs12 = plain_vmcs(real).replace(edits)
        both = real.enter(Launch(vmcs12, memory=memory, answers=answers))
        assert not compare(both).differences
        decided.update((both.model.check, *both.model.fired))
    return decided


def no_judgement(*_: object) -> Judgement:
    raise AssertionError


# ---------------------------------------------------------------------- planted faults


def test_a_field_that_goes_elsewhere_is_found(
    real: EntryWitness, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = tuple(
        {"guest_es_limit": "guest_gdtr_limit", "guest_gdtr_limit": "guest_es_limit"}.get(name, name)
        for name in copy_rare.names
    )
    faulty = FieldCopy(copy_rare.names)
    faulty.read = FieldCopy(swapped).read
    monkeypatch.setattr(vmcs02, "copy_rare", faulty)
    assert "vmcs02: guest_es_limit" in differences(real)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda vcpu: vcpu.vmcs.update(tpr_threshold=3), "vmcs02: tpr_threshold"),
        (lambda vcpu: vcpu.vmcs.update(virtual_processor_id=9), "vmcs02: virtual_processor_id"),
        (
            lambda vcpu: vcpu.vmcs.update(
                secondary_vm_exec_control=vcpu.vmcs["secondary_vm_exec_control"]
                | Secondary.VMCS_SHADOWING
            ),
            "vmcs02: secondary_vm_exec_control",
        ),
    ],
)
def test_a_control_that_is_merged_otherwise_is_found(
    real: EntryWitness,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Vcpu], None],
    field: str,
) -> None:
    merge = vmcs02_early.prepare_vmcs02_early

    def faulty(vcpu: Vcpu, vmcs12: Vmcs) -> None:
        merge(vcpu, vmcs12)
        change(vcpu)

    monkeypatch.setattr(nested_enter, "prepare_vmcs02_early", faulty)
    assert field in differences(real, 400)


VERDICTS = (
    "nested_vmx_check_controls",
    "nested_vmx_check_address_space_size",
    "nested_vmx_check_host_state",
    "nested_vmx_check_guest_state",
    "prepare_vmcs02",
    "nested_vmx_load_msr",
)
"""Functions of nested_enter.py that say which check has failed."""

FEWEST = 45
"""How many checks decide over `ENTRIES` random entries, at least."""


Verdict: TypeAlias = str | tuple[str, int]


def without(check: str, function: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """Return the function as if it did not make one of its checks."""

    def faulty(*arguments: object, **named: object) -> Verdict:
        verdict = function(*arguments, **named)
        if verdict == check:
            return ""
        return ("", 0) if isinstance(verdict, tuple) and verdict[0] == check else verdict

    return faulty


def test_each_check_that_is_left_out_is_found(
    real: EntryWitness, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided: dict[str, tuple[Kvm, Launch, Both]] = {}
    for source in islice(lives(real, "faults"), ENTRIES // OF_ONE):
        for _ in range(OF_ONE):
            launch = random_launch(source, real.kvm, real.capabilities)
            both = real.enter(launch)
            if not launch.answers and both.model.check:
                decided.setdefault(both.model.check, (real.kvm, launch, both))
    missed = []
    for check, (kvm, _, both) in decided.items():
        with monkeypatch.context() as patch:
            for name in VERDICTS:
                patch.setattr(nested_enter, name, without(check, getattr(nested_enter, name)))
            model = vm_entry(kvm, both.request, None)
        faulty = replace(both, model=model)
        if model != both.model and not compare(faulty).differences:
            missed.append(check)
        if model == both.model:
            assert check.startswith(("basic.", "l1.", "execution.apic-access.memory", "evmcs.")), (
                check
            )
    assert missed == []
    assert len(decided) >= FEWEST


# ---------------------------------------------------------------------- docs/findings


def test_a_link_pointer_without_memory_spoils_the_next_one(real: EntryWitness) -> None:
    """See docs/findings/link-pointer-cache.md."""
    real.configure(PLAIN)
    linked = plain_vmcs(real).replace({"vmcs_link_pointer": 0x1_0000})
    nowhere = linked.replace({"vmcs_link_pointer": 0x7F00_0000})
    memory = ((0x1_0000, struct.pack("<I", REVISION)),)
    ends, checks = [], []
    for vmcs12 in (linked, nowhere, linked, linked):
        both = real.enter(Launch(vmcs12, memory=memory))
        assert compare(both).relation == "agreed"
        ends.append(both.model.outcome)
        checks.append(both.model.check)
    refused = exit_on_entry(33, 4)
    again = ["guest.link-pointer.read"] * 2
    assert checks == ["", "guest.link-pointer.memory", *again]
    assert ends == [ENTERED, refused, refused, refused]


def test_vm_functions_above_bit_31_warn(real: EntryWitness) -> None:
    """See docs/findings/evmcs-vm-functions.md."""
    real.configure(ENLIGHTENED)
    vmcs12 = plain_vmcs(real).replace({"vm_function_control": 1 << 32})
    both = real.enter(Launch(vmcs12))
    assert compare(both).relation == "agreed"
    assert isinstance(both.real, RealEntry)
    assert (both.real.outcome, both.real.warnings) == (fail_valid(7), 1)


def test_a_dry_run_without_ept_costs_l1_its_cr3(real: EntryWitness) -> None:
    """See docs/findings/late-vmfail-cr3.md."""
    ends = []
    for dry in (0, 1):
        real.configure(replace(PLAIN, parameters=(("ept", 0), ("nested_early_check", dry))))
        answers = (FAILED, fail_valid(7)) if dry else (fail_valid(7),)
        l1 = Processor(cr0=0x8000_0031, cr3=0x3000, efer=0x500)
        both = real.enter(Launch(plain_vmcs(real), l1, answers=answers))
        assert isinstance(both.real, RealEntry)
        assert both.model.outcome == fail_valid(7)
        assert both.model.l1 is not None
        ends.append((both.model.l1.cr3, both.real.died, both.real.l1))
    kept, lost = ends
    assert kept[0] == 0x3000
    assert kept[1] == ""
    assert kept[2] is not None
    assert kept[2]["cr3"] == 0x3000
    # The root of KVM's page tables. L1 has nothing there, which 6.1 takes for a triple fault.
    assert lost[0] > RAM
    assert lost[1] == ("triple-fault" if real.kernel == "6.1" else "")
    assert lost[2] is None or lost[2]["cr3"] == lost[0]


def test_a_timer_that_ends_a_halted_l2_is_no_part_of_its_entry(real: EntryWitness) -> None:
    """6.12 lets the timer wake L2; the VM exit that follows aborts by its MSR-load list."""
    real.configure(PLAIN)
    timer = int(Pin.ACTIVATE_VMX_PREEMPTION_TIMER)
    plain = plain_vmcs(real)
    halted = plain.replace(
        {
            "pin_based_vm_exec_control": plain.pin_based_vm_exec_control | timer,
            "guest_activity_state": int(Activity.HLT),
            "vm_exit_msr_load_count": 1,
            "vm_exit_msr_load_addr": 0x2_0000,
        }
    )
    unloadable = msr_list((0x9E, 0))
    for _ in range(2):
        both = real.enter(Launch(halted, memory=unloadable, answers=(ENTERED,)))
        assert isinstance(both.real, RealEntry)
        assert both.real.outcome == both.model.outcome == ENTERED
        assert compare(both).relation == "agreed"


@pytest.mark.parametrize("pae", [0, int(Cr4.PAE)])
def test_a_late_vmfail_gives_an_l1_of_32_bits_the_efer_of_the_host(
    real: EntryWitness, pae: int
) -> None:
    """See docs/findings/late-vmfail.md; a processor that cannot load EFER at VM entry."""
    real.configure(Configuration(load_profile("penryn")))
    vmcs = base("guest-pae", load_profile(f"kvm-{real.kernel}-penryn")).vmcs
    cr4 = pae | Cr4.VMXE
    changes = {
        "vm_exit_controls": vmcs.vm_exit_controls & ~VmExit.HOST_ADDRESS_SPACE_SIZE,
        "host_cr4": cr4,
        "host_cr3": 0x1000,
        "host_rip": 0x1000,
        "host_ia32_efer": 0,
    }
    l1 = Processor(cr0=0x8000_0031, cr3=0x1000, cr4=cr4, efer=0, cs_l=False)
    both = real.enter(Launch(vmcs.replace(changes), l1, answers=(fail_valid(7),)))
    assert compare(both).relation == "agreed"
    assert isinstance(both.real, RealEntry)
    if pae or real.kernel == "6.1":
        assert both.real.outcome == fail_valid(7)
        assert both.real.l1 is not None
        assert both.real.l1["efer"] & Efer.LMA
    else:
        assert both.real.died == "vm-bugged"


def test_an_l1_that_cannot_go_on_is_no_part_of_the_entry_that_failed(real: EntryWitness) -> None:
    """Without EPT 6.1 shuts L1 down for a PDPTE that points beyond its memory."""
    real.configure(replace(PLAIN, parameters=(("ept", 0),)))
    cr4 = int(Cr4.PAE | Cr4.VMXE)
    vmcs = base("guest-pae", load_profile(f"kvm-{real.kernel}-penryn")).vmcs
    changes = {
        "vm_exit_controls": vmcs.vm_exit_controls & ~VmExit.HOST_ADDRESS_SPACE_SIZE,
        "host_cr4": cr4,
        "host_cr3": 0x2_0000,
        "host_rip": 0x1000,
        "host_ia32_efer": 0,
    }
    l1 = Processor(cr0=0x8000_0031, cr3=0x1000, cr4=cr4, efer=0, cs_l=False)
    beyond = ((0x2_0000, struct.pack("<4Q", RAM | 1, 0, 0, 0)),)
    failed = exit_on_entry(34, 1)
    both = real.enter(Launch(vmcs.replace(changes), l1, memory=beyond, answers=(failed,)))
    assert compare(both).relation == "agreed"
    assert isinstance(both.real, RealEntry)
    assert (both.real.outcome, both.model.outcome) == (failed, failed)
