# SPDX-License-Identifier: GPL-2.0-only
"""Bochs' messages mean rules that exist, and say them only where one is broken."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path

import pytest

from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.bases import base, base_names, default_base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.difference import Edit, apply_to, differences
from nvmxfuzz.inputs.load import load_vector
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.bochs.agreement import compare, explains
from nvmxfuzz.oracles.bochs.known import BOCHS, DIFFERENCES
from nvmxfuzz.oracles.bochs.messages import RULES_OF, rules_of
from nvmxfuzz.targets.base import Message
from nvmxfuzz.targets.bochs import wheel
from nvmxfuzz.targets.bochs.models import MODELS
from nvmxfuzz.targets.bochs.target import Bochs

CORPUS = Path(__file__).parents[2] / "corpus"
NAMES = ("a", "b", "es", "cs", "ss", "ds", "fs", "gs")
"""What a message may name: I/O bitmaps and segment registers."""
SILENT = {
    "VMENTER FAIL: The activity state must not indicate the wait-for-SIPI state "
    "if entering to SMM guest",
    "VMFAIL: VMCS link pointer equal to VMXON pointer",
    "VMFAIL: invalid value in guest MSR_IA32_SPEC_CTRL",
}
"""Messages that nothing provokes: they need SMM, or a control that no model has."""

REFUSED = (
    *(0x1B, 0x3A, 0x48, 0x49, 0xFE, 0x10A, 0x10B, 0x200, 0x201, 0x250, 0x258, 0x268, 0x2FF, 0xDA0),
    *(0x175, 0x176, 0xC000_0080, 0xC000_0082, 0xC000_0083, 0xC000_0102),
)
"""MSRs that Bochs has and that do not take every value."""
VALUES = (0, 2, 0x10, 0x400, 0xD00, 0x800, 1 << 32, 1 << 47, (1 << 64) - 1)

needs_bochs = pytest.mark.skipif(wheel.usable() != "", reason=wheel.usable())


def attempts() -> Iterator[Attempt]:
    """Yield every case of the corpus on every model, where the model can be in that state."""
    models = [load_profile(model) for model in MODELS]
    for path in sorted(CORPUS.rglob("*.toml")):
        case = load_vector(path.read_bytes(), path.name).case
        if not isinstance(case, EntryCase):
            continue
        changes = differences(case)
        for model in models:
            if case.base in base_names(model):
                yield apply_to(base(case.base, model), changes)


def msr_loads() -> Iterator[Attempt]:
    """Yield loads of MSRs that Bochs refuses for many a reason."""
    for model in MODELS:
        profile = load_profile(model)
        plain = base(default_base(profile), profile)
        for index, value in product(REFUSED, VALUES):
            words = {"vm_entry_msr_load_count": 1, "msr_load0_index": index}
            words["msr_load0_value"] = value
            yield apply_to(plain, [Edit(name, word) for name, word in words.items()])


@pytest.mark.parametrize("template", RULES_OF)
def test_every_rule_exists(template: str) -> None:
    for rule in RULES_OF[template]:
        named = [rule.format(name) for name in NAMES]
        assert any(name in CHAPTER.index for name in named), rule


@needs_bochs
def test_every_message_is_one_of_bochs() -> None:
    data = wheel.installed().data
    made_up = [text for text in RULES_OF if text.encode("latin-1") + b"\0" not in data]
    made_up += [text for entry in DIFFERENCES for text in entry.messages if text not in RULES_OF]
    assert not made_up


@pytest.mark.parametrize(
    ("template", "text", "rules"),
    [
        ("VMENTER FAIL: VMCS guest %s not present", "VMENTER FAIL: VMCS guest FS not present", "p"),
        (
            "VMENTER FAIL: VMCS guest CODE segment %s not READABLE",
            "VMENTER FAIL: VMCS guest CODE segment FS not READABLE",
            "readable",
        ),
        (
            "VMENTER FAIL: VMCS guest non-conforming %s.RPL < %s.DPL",
            "VMENTER FAIL: VMCS guest non-conforming FS.RPL < FS.DPL",
            "dpl",
        ),
        (
            "VMENTER FAIL: VMCS v8086 guest bad %s.BASE",
            "VMENTER FAIL: VMCS v8086 guest bad FS.BASE",
            "v8086-base",
        ),
        (
            "VMENTER FAIL: VMCS v8086 guest %s.AR != 0xF3",
            "VMENTER FAIL: VMCS v8086 guest FS.AR != 0xF3",
            "v8086-access-rights",
        ),
    ],
)
def test_a_message_names_its_segment(template: str, text: str, rules: str) -> None:
    assert rules_of([Message(template, text)]) == (f"guest.fs.{rules}",)


def test_a_message_has_numbers_for_names() -> None:
    template = "VMFAIL: VMCS host segreg %d TI/RPL != 0"
    said = [Message(template, template.replace("%d", "4"))]
    assert rules_of(said) == ("host.fs.rpl", "host.fs.ti")


def test_no_message_and_one_of_tomorrow_blame_no_rule() -> None:
    assert rules_of([]) is None
    assert rules_of([Message("tomorrow", "tomorrow")]) is None


@needs_bochs
def test_messages_blame_broken_rules() -> None:
    """Every vector on every model: no difference that is not known, nearly every message."""
    bochs, silent = Bochs(), set(RULES_OF)
    different: list[str] = []
    for attempt in chain(attempts(), msr_loads()):
        seen = bochs.run(attempt)
        silent -= {message.template for message in seen.messages}
        found = compare(vm_entry(attempt), seen, attempt)
        if found.relation == "unexplained":
            different.append(f"{attempt.profile.name}: {found.site}")
        elif seen.outcome and not explains(BOCHS.judge(attempt), seen.outcome, seen.messages):
            different.append(f"{attempt.profile.name}: too broad: {found.known}")
    assert not different
    assert silent == SILENT
