# SPDX-License-Identifier: GPL-2.0-only
"""Rules are written out as what they say, and what cannot be written out is called."""

from collections.abc import Callable
from random import Random

import pytest

from nvmxfuzz.arch.controls import VmExit
from nvmxfuzz.cpu import questions
from nvmxfuzz.cpu.chapter import Chapter
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.rule import UNKNOWN, Section
from nvmxfuzz.cpu.vm_entry import CHAPTER
from nvmxfuzz.cpu.written_out import written_out
from nvmxfuzz.inputs.codec import REPAIR, decode
from nvmxfuzz.inputs.layout import VERSION
from nvmxfuzz.machine.profile import load_profile

PAGE = 0xFFF
TABLE = {1: 2}


def numbers(entry: Entry) -> bool:
    """Name numbers of a module and of a table of the vocabulary."""
    return entry.vm_exit & VmExit.HOST_ADDRESS_SPACE_SIZE == 0 and entry.event & ~PAGE != 0


def values(entry: Entry) -> object:
    """Name a table, a builtin and what is not known."""
    return TABLE if len(entry.vmcs.items()) else UNKNOWN


def of(register: str) -> Callable[[Entry], int]:
    """Return a function with a value of its own."""
    field = f"host_{register}_selector"

    def selector(entry: Entry) -> int:
        return int(getattr(entry.vmcs, field))

    return selector


def two_steps(entry: Entry) -> bool:
    """Make a name on the way."""
    event = entry.event
    return event != 0


def each(entry: Entry) -> bool:
    """Make a name within the expression, that of the argument."""
    return any(entry for entry in (entry.event,))


def text_of(function: object) -> tuple[str | None, list[object]]:
    known: list[object] = []

    def name_of(value: object) -> str:
        known.append(value)
        return f"f{len(known)}"

    return written_out(function, "subject", name_of), known


def test_numbers_are_put_in_as_they_are() -> None:
    expected = "(subject.vm_exit & 512 == 0 and subject.event & ~4095 != 0)"
    assert text_of(numbers) == (expected, [])


def test_other_values_get_a_name() -> None:
    text, known = text_of(values)
    assert text == "(f2 if f1(subject.vmcs.items()) else None)"
    assert known == [len, TABLE]


def test_what_a_function_closes_over_is_put_in() -> None:
    assert text_of(of("cs")) == ("(f1(subject.vmcs.host_cs_selector))", [int])
    assert text_of(of("tr"))[0] == "(f1(subject.vmcs.host_tr_selector))"


@pytest.mark.parametrize("function", [two_steps, each, len, load_profile, lambda entry: entry])
def test_what_is_no_plain_expression_is_called(function: object) -> None:
    assert text_of(function) == (None, [])


def test_most_rules_are_written_out() -> None:
    written = [text_of(rule.predicate)[0] is not None for rule in CHAPTER.rules]
    assert sum(written) > 0.9 * len(written)


def test_written_out_and_called_rules_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    section = Section("all", CHAPTER.rules[0].failure)
    section.rules.extend(CHAPTER.rules)
    monkeypatch.setattr(questions, "written_out", lambda *_: None)
    called = Chapter((section,), CHAPTER.views)
    rng, seen = Random(1), 0
    for number in range(300):
        header = bytes((VERSION, REPAIR * (number & 1), rng.randrange(24), rng.randrange(6)))
        attempt = decode(header + rng.randbytes(2000), "vm_entry").attempt
        one, other = CHAPTER.judge(Entry(attempt)), called.judge(Entry(attempt))
        said = (one.asked, one.broken, one.unknown, one.positions)
        assert said == (other.asked, other.broken, other.unknown, other.positions)
        seen |= one.asked
    assert seen.bit_count() > 0.9 * len(CHAPTER.rules)
