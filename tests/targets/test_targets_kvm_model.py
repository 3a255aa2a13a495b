# SPDX-License-Identifier: GPL-2.0-only
"""The model of KVM as a target, alone and beside KVM itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from nvmxfuzz.campaign.plan import corpus_files
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.kvm.entry_behaviour import ENTRY_KERNELS
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, exit_on_entry, fail_valid
from nvmxfuzz.machine.processor import NO_POINTER
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.kvm.witness import Once
from nvmxfuzz.targets.kvm_model import KvmModel
from nvmxfuzz.targets.kvm_native.build.objects import usable
from nvmxfuzz.targets.kvm_native.target import KvmTarget
from nvmxfuzz.targets.registry import TARGETS

PLAIN = base("guest-64", load_profile("skylake-x"))
CORPUS = next(corpus_files("vm_entry")).parents[2]
OTHERWISE = {
    # The profile has LAM and MPX, which the kernel around the built KVM has not.
    *("guest.cr3.lam/na", "host.cr3.lam/na", "msr-load.bndcfgs.reserved/held"),
    # The processor below the built KVM takes any value that is written to IA32_SPEC_CTRL.
    *("msr-load.spec-ctrl.reserved/broken", "kvm.msr-load.spec-ctrl/bit-63"),
}
"""Cases on which the model and KVM itself differ, and why."""


def with_fields(**fields: int) -> Attempt:
    return replace(PLAIN, vmcs=PLAIN.vmcs.replace(fields))


@pytest.mark.parametrize("kernel", ENTRY_KERNELS)
def test_each_kernel_is_a_target(kernel: str) -> None:
    entry = TARGETS[f"kvm-model-{kernel}"]
    assert entry.usable() == ""
    assert entry.is_kvm
    with entry.make() as target:
        assert target.name == entry.name
        assert target.run(PLAIN).outcome == ENTERED


def test_what_software_lets_pass_the_rules_judge() -> None:
    model = KvmModel("6.12")
    refused = with_fields(guest_rflags=0xA)
    assert model.run(refused).outcome == ENTERED
    seen = model.on_hardware(refused)
    assert seen.outcome == exit_on_entry(33)
    assert [message.text for message in seen.messages] == [
        "hardware.entry.exit"
    ] or not seen.messages


def test_the_processor_below_can_be_bochs() -> None:
    entry = TARGETS["bochs"]
    if entry.usable():
        pytest.skip(entry.usable())
    with entry.make() as bochs, KvmModel("6.12", below=bochs) as model:
        assert model.on_hardware(PLAIN).outcome == ENTERED
        assert model.on_hardware(with_fields(guest_rflags=0xA)).outcome == exit_on_entry(33)
        shadow = PLAIN.vmcs.cpu_based_vm_exec_control | 1 << 21
        late = with_fields(cpu_based_vm_exec_control=shadow, tpr_threshold=0x20)
        assert model.run(late).outcome == ENTERED
        assert model.on_hardware(late).outcome == fail_valid(7)


def test_a_dry_run_is_made_if_it_is_asked_for() -> None:
    seen = KvmModel("6.12", dry_run=True).run(PLAIN)
    # The TSC multiplier is not there yet: docs/findings/dry-run-tsc-multiplier.md.
    assert seen.outcome == fail_valid(7)
    assert [message.text for message in seen.messages] == ["hardware.early-check.vmfail"]
    assert KvmModel("6.19", dry_run=True).run(PLAIN).outcome == ENTERED


def test_messages_are_the_checks_of_the_model() -> None:
    model = KvmModel("6.12")
    seen = model.run(with_fields(host_cs_selector=0))
    assert [message.template for message in seen.messages] == ["host.cs.null"]
    old = KvmModel("4.20").run(with_fields(host_cs_selector=0))
    assert old.outcome in (ENTERED, fail_valid(8))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vmxon_pointer": NO_POINTER}, "not in VMX operation"),
        ({"in_smm": True}, "SMM"),
        ({"rtit_ctl": 1}, "Intel PT"),
    ],
)
def test_what_no_l1_can_be(changes: dict[str, int | bool], said: str) -> None:
    processor = replace(PLAIN.processor, **changes)  # type: ignore[arg-type]
    seen = KvmModel("6.12").run(replace(PLAIN, processor=processor))
    assert seen.status == "not-representable"
    assert said in seen.reason


def test_a_processor_without_ept_and_kvm() -> None:
    seen = KvmModel("6.12").run(replace(PLAIN, profile=load_profile("yonah")))
    assert seen.status == "not-representable"
    assert "does not load" in seen.reason


def test_l1_has_the_processor_that_kvm_gives_it() -> None:
    model = KvmModel("6.12")
    host = load_profile("skylake-x")
    given = load_profile("kvm-6.12-skylake-x")
    assert dict(model.virtual(host).msrs) == dict(given.msrs)
    assert model.virtual(given) is given
    yonah = load_profile("yonah")
    assert model.virtual(yonah) is yonah


def cases() -> Iterator[tuple[str, Attempt]]:
    for path in (*corpus_files("vm_entry"), *CORPUS.rglob("*.toml")):
        case = load_case(path.read_bytes(), str(path))
        if isinstance(case, EntryCase):
            yield "/".join(path.with_suffix("").parts[-2:]), case.attempt


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_kvm_itself_does_the_same(kernel: str) -> None:
    if usable(kernel):
        pytest.skip(usable(kernel))
    model, real = Once(KvmModel(kernel)), Once(KvmTarget(kernel))
    differ, outcomes = set(), 0
    for name, attempt in cases():
        for ours, theirs in (
            (model.run(attempt), real.run(attempt)),
            (model.on_hardware(attempt), real.on_hardware(attempt)),
        ):
            outcomes += theirs.status == "outcome"
            both = {ours.status, theirs.status}
            if both != {"no-opinion", "died"} and ours.outcomes != theirs.outcomes:
                differ.add(name)
    assert outcomes > 5000
    assert differ <= OTHERWISE
