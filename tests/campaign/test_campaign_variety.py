# SPDX-License-Identifier: GPL-2.0-only
"""VM entries that pass are looked at for values that none before had, a bounded number of times."""

from __future__ import annotations

from dataclasses import replace

from nvmxfuzz.campaign.config_sites import SiteVerdicts
from nvmxfuzz.campaign.harness import SAMPLE_OF, is_sampled
from nvmxfuzz.campaign.variety import VALUES, Variety
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.machine.profile import load_profile

PLAIN = EntryCase(base("guest-64", load_profile("skylake-x")), "guest-64")


def edited(**fields: int) -> EntryCase:
    return replace(PLAIN, attempt=replace(PLAIN.attempt, vmcs=PLAIN.attempt.vmcs.replace(fields)))


def asked(variety: Variety, case: EntryCase) -> bool:
    return variety.is_new(case, vm_entry(case.attempt))


def test_a_value_is_new_once() -> None:
    variety = Variety()
    assert asked(variety, PLAIN)
    assert not asked(variety, PLAIN)
    assert asked(variety, edited(guest_rsp=0x1234))
    assert not asked(variety, edited(guest_rsp=0x1234))


def test_it_is_new_again_where_the_guest_state_is_refused() -> None:
    variety = Variety()
    asked(variety, PLAIN)
    asked(variety, edited(guest_rsp=0x1234))
    refused = edited(guest_rsp=0x1234, guest_rflags=0)
    assert asked(variety, refused)
    assert not asked(variety, refused)


def test_a_register_of_the_hypervisor_counts_too() -> None:
    variety = Variety()
    asked(variety, PLAIN)
    attempt = replace(PLAIN.attempt, processor=replace(PLAIN.attempt.processor, rflags=0x202))
    assert asked(variety, replace(PLAIN, attempt=attempt))


def test_what_is_refused_early_is_never_new() -> None:
    assert not asked(Variety(), edited(host_cr3=1 << 63))


def test_a_field_has_its_turn_so_many_times() -> None:
    variety = Variety()
    asked(variety, PLAIN)
    news = sum(asked(variety, edited(guest_rsp=0x10000 + 8 * number)) for number in range(100))
    assert news == VALUES - 1
    assert asked(variety, edited(guest_rip=0x7000))


def test_when_every_field_has_had_its_turns_nothing_is_new() -> None:
    variety, names = Variety(), tuple(PLAIN.attempt.vmcs.__dict__)
    passes = SiteVerdicts(asked=0, broken=())
    cases = (edited(**dict.fromkeys(names, number)) for number in range(3 * VALUES))
    assert sum(variety.is_new(case, passes) for case in cases) == VALUES


def test_a_sample_that_is_larger_has_the_smaller_one() -> None:
    inputs = [bytes([number & 255, number >> 8]) for number in range(4096)]
    small = [data for data in inputs if is_sampled(data)]
    large = [data for data in inputs if is_sampled(data, 8)]
    assert set(small) <= set(large)
    assert 4096 / SAMPLE_OF / 2 < len(small) < 2 * 4096 / SAMPLE_OF
    assert 256 < len(large) < 1024
