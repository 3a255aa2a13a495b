# SPDX-License-Identifier: GPL-2.0-only
"""The compiled chapter says of every entry what its rules say when each is asked by hand."""

from hypothesis import given, settings

from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.rule import Rule
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.strategies import entry_cases


def by_hand(rule: Rule, entry: Entry) -> str:
    """Return the verdict on a rule that looks at the whole entry or at one register of it."""
    (subject,) = CHAPTER.views[rule.view](entry) if rule.view else (entry,)
    if rule.condition is not None and not rule.condition(subject):
        return "n/a"
    verdict = rule.predicate(subject)
    return "unknown" if verdict is None else "held" if verdict else "broken"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(entry_cases())
def test_compiled_and_by_hand_are_the_same(case: EntryCase) -> None:
    entry = Entry(case.attempt)
    judgement = vm_entry(case.attempt)
    for index, rule in enumerate(CHAPTER.rules):
        if rule.view != "msr-load":
            assert judgement.verdict(index) == by_hand(rule, entry), rule.name
