# SPDX-License-Identifier: GPL-2.0-only
"""What KVM itself prints when the processor refuses a VM entry, read and explained.

The VMCS is that of a vector at the moment of the VM entry; KVM's own code does the rest: it sees
the failure, calls dump_vmcs() and returns to user space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import pytest

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.dumps import read_dumps
from nvmxfuzz.inputs.dumps.dump import Dump
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.machine.outcome import exit_on_entry
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.port import Answer, Answering, FailedEntry, PortEntry
from nvmxfuzz.targets.kvm_native.vm import Fresh
from nvmxfuzz.triage.explain import explain

NewMachine: TypeAlias = Callable[..., Fresh]

ROOT = Path(__file__).parents[3]
VECTORS = ROOT / "corpus" / "vectors"
PAGE = ROOT / "docs" / "explain.md"
HOSTS = ("skylake-x", "everything", "sapphire-rapids")
NOT_PRINTED = {
    "vmcs_link_pointer": "KVM's own, all ones or a shadow VMCS",
    "memory": "the table at CR3, of a guest without EPT",
    "guest_ia32_rtit_ctl": "Intel PT",
    "guest_s_cet": "CET",
    "guest_ssp": "CET",
    "guest_intr_ssp_table": "CET",
    "guest_ia32_pkrs": "PKS",
    "guest_ia32_lbr_ctl": "architectural LBRs",
    "guest_uinv": "user interrupts",
    "guest_ia32_spec_ctrl": "virtualized IA32_SPEC_CTRL",
    **{
        f"guest_ia32_fred_{name}": "FRED"
        for name in ("config", "rsp1", "rsp2", "rsp3", "ssp1", "ssp2", "ssp3")
    },
}
"""What a rule may lack in a dump, and what it is for: KVM uses few of these."""
ONLY_IN_SMM = "guest.link-pointer.executive"
"""The one rule that cannot be broken where KVM is: it never runs in SMM."""


def refused(machine: Fresh, fields: Mapping[str, int], failure: FailedEntry) -> Dump:
    """Let a VM entry with these fields fail; return what KVM prints of it."""
    machine.renew()

    def answer(entry: PortEntry) -> Answer:
        for name, value in fields.items():
            entry.write(name, value)
        return failure

    machine.vcpu.run(Answering(answer))
    result = machine.machine.library.result()
    assert result.line_count == len(result.log)
    (dump,) = read_dumps("\n".join(result.log).encode())
    return dump


def broken_vectors() -> list[tuple[str, EntryCase]]:
    """Return each vector of guest state that breaks a rule, with the name of the rule."""
    found = []
    for path in sorted(VECTORS.glob("guest-*/*/broken*.toml")):
        case = load_case(path.read_bytes(), str(path))
        assert isinstance(case, EntryCase)
        found.append((path.parent.name, case))
    return found


def test_every_field_that_is_printed_is_read_as_it_was(new_machine: NewMachine) -> None:
    machine = new_machine("everything", dump_invalid_vmcs=1)
    fields = base("guest-64", load_profile("everything")).vmcs.items()
    dump = refused(machine, fields, FailedEntry(33))
    assert dump.parts == ("guest", "host", "control")
    assert len(dump.fields) == 98
    written_at_exit = {"vm_exit_reason", "exit_qualification"}
    for name in dump.fields.keys() - written_at_exit:
        assert dump.fields[name] == fields[name], name


def test_every_broken_rule_is_named_that_the_dump_shows(
    library: Library, new_machine: NewMachine
) -> None:
    """Of each guest-state rule, where the processor is named."""
    vectors = broken_vectors()
    named, lacking = 0, []
    for host in HOSTS:
        library.restore()
        machine = new_machine(host, dump_invalid_vmcs=1)
        for rule, case in vectors:
            profile = case.attempt.profile
            if profile.name != host and (profile.name in HOSTS or host != HOSTS[0]):
                continue
            dump = refused(machine, case.attempt.vmcs.items(), FailedEntry(33))
            found = {one.rule.name: one for one in explain(dump, profile).judged}[rule]
            if found.verdict == "unknown":
                assert set(found.missing) <= NOT_PRINTED.keys(), rule
                lacking.append(found.missing)
            elif rule != ONLY_IN_SMM:
                assert found.verdict == "broken", rule
                assert found.values or found.applies, rule
                named += 1
    assert {name for names in lacking for name in names} == NOT_PRINTED.keys()
    assert (
        f"Of {len(vectors)} such vectors {named} are named; {len(lacking)} need what KVM does not "
        "print, and one" in " ".join(PAGE.read_text().split())
    )


def test_without_the_processor_no_rule_is_taken_to_hold(new_machine: NewMachine) -> None:
    machine = new_machine("skylake-x", dump_invalid_vmcs=1)
    for rule, case in broken_vectors()[::5]:
        if case.attempt.profile.name != "skylake-x":
            continue
        dump = refused(machine, case.attempt.vmcs.items(), FailedEntry(33))
        found = {one.rule.name: one for one in explain(dump).judged}[rule]
        assert found.verdict in ("broken", "depends") or set(found.missing) <= NOT_PRINTED.keys()


def test_the_neighbour_that_is_legal_is_not_named(new_machine: NewMachine) -> None:
    """Planted the other way round: the held vector of a rule must not be said to break it."""
    machine = new_machine("skylake-x", dump_invalid_vmcs=1)
    for path in sorted(VECTORS.glob("guest-*/*/held.toml"))[::3]:
        case = load_case(path.read_bytes(), str(path))
        assert isinstance(case, EntryCase)
        if case.attempt.profile.name != "skylake-x":
            continue
        dump = refused(machine, case.attempt.vmcs.items(), FailedEntry(33))
        found = explain(dump, case.attempt.profile)
        assert path.parent.name not in {one.rule.name for one in found.broken}
        assert not explain(dump).broken


@pytest.mark.parametrize("failure", [(33, 0), (33, 2), (33, 4), (34, 3)])
def test_how_vm_entry_failed_is_read(new_machine: NewMachine, failure: tuple[int, int]) -> None:
    machine = new_machine("skylake-x", dump_invalid_vmcs=1)
    dump = refused(machine, {}, FailedEntry(*failure))
    assert explain(dump).reported == exit_on_entry(*failure)
