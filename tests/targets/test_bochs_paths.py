# SPDX-License-Identifier: GPL-2.0-only
"""Bochs by its fast path and by its complete path: the same, message for message."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TypeAlias

import pytest

from nvmxfuzz.inputs.bases import base, default_base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.text import load_text
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, exit_on_entry, fail_valid
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.targets.bochs.complete import CompletePath
from nvmxfuzz.targets.bochs.image import own_fields
from nvmxfuzz.targets.bochs.models import MODELS
from nvmxfuzz.targets.bochs.target import Bochs, BochsComplete, complete_engine, fast_engine

RandomStates: TypeAlias = Callable[[int, int], list[Attempt]]

VECTORS = Path(__file__).parents[2] / "corpus" / "vectors"
STATES = 4000


def vectors() -> list[Attempt]:
    """Return the attempts of all vectors of VM entries."""
    cases = (load_text(path.read_bytes(), path.name).case for path in VECTORS.rglob("*.toml"))
    return [case.attempt for case in cases if isinstance(case, EntryCase)]


def test_random_states(
    bochs: Bochs, bochs_complete: BochsComplete, random_states: RandomStates
) -> None:
    attempts = random_states(1, STATES)
    for attempt in attempts:
        assert bochs.run(attempt) == bochs_complete.run(attempt)
    kinds = {str(seen.outcome) for attempt in attempts if (seen := bochs.run(attempt)).outcome}
    assert kinds >= {"entered", "fail-valid 7", "fail-valid 8", "exit 33 qualification 0"}


def test_vectors(bochs: Bochs, bochs_complete: BochsComplete) -> None:
    attempts = vectors()
    seen = [bochs.run(attempt) for attempt in attempts]
    assert seen == [bochs_complete.run(attempt) for attempt in attempts]
    assert sum(one.status == "outcome" for one in seen) > len(seen) // 2


@pytest.mark.parametrize("model", MODELS)
def test_vmwrite_stores_what_the_image_has(model: str, bochs_complete: BochsComplete) -> None:
    profile = load_profile(model)
    bochs_complete.open(profile)
    engine = complete_engine(model)
    source = Random(4)
    wide = "long-mode" in profile.features
    fields = {
        field.name: source.getrandbits(32 if field.natural and not wide else field.width)
        for field in own_fields(engine.cpu)
        if field.type != "exit-info"
    }
    # Wrong from the first check on, so that VM entry changes nothing but the error.
    attempt = replace(base(default_base(profile), profile), vmcs=Vmcs(fields))
    assert CompletePath(engine, profile, model).run(attempt).outcome == fail_valid(7)
    form = fast_engine(model).format
    error = form.instruction_error
    region = bytearray(engine.vmcs_region[: form.size])
    assert region[error : error + 4] == b"\x07\0\0\0"
    region[error : error + 4] = bytes(4)
    region[:4] = bytes(4)  # the revision identifier
    assert bytes(region) == form.image(attempt.vmcs, "clear")


def test_memory_does_not_grow(bochs: Bochs, random_states: RandomStates) -> None:
    attempts = random_states(3, 300)
    for attempt in attempts:
        bochs.run(attempt)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(60):
        for attempt in attempts:
            bochs.run(attempt)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2048


def test_what_an_attempt_writes_is_gone_in_the_next(bochs_complete: BochsComplete) -> None:
    plain = base("guest-32", load_profile("skylake-x"))
    # Delivery of the event pushes to a stack and sets bits in page tables, both missing.
    event = plain.vmcs.replace({"vm_entry_intr_info_field": 0x8000_00F2, "guest_rflags": 0x202})
    reader = plain.vmcs.replace({"vmcs_link_pointer": plain.vmcs.guest_cr3})
    first = bochs_complete.run(replace(plain, vmcs=reader))
    assert bochs_complete.run(replace(plain, vmcs=event)).outcome == ENTERED
    assert bochs_complete.run(replace(plain, vmcs=reader)) == first
    assert first.outcome == exit_on_entry(33, 4)
