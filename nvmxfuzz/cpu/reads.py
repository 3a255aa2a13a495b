# SPDX-License-Identifier: GPL-2.0-only
"""Which inputs each rule names: read off its code, not off a run.

A rule may break only through what it names. The oracle `entry.repaired` holds judgements to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from functools import cache
from random import Random
from types import CodeType, FunctionType
from typing import Any

from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.arch.segments import SEGMENTS
from nvmxfuzz.cpu.chapter import Chapter
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.rule import Given, Rule
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.machine.vmcs import Vmcs

_FIELD_NAMES = frozenset(field.name for field in FIELDS)
_PROCESSOR_NAMES = frozenset(field.name for field in fields(Processor))
_ATTEMPT_NAMES = frozenset({"instruction", "launch_state", "memory"})
_WHOLE = frozenset({"attempt", "vmcs", "profile", "caps", "processor", "memory"})
_ATTEMPTS = 64
_PACKAGE = __name__.rpartition(".")[0]


def inputs_by_rule(chapter: Chapter, *, conditions: bool = True) -> dict[str, frozenset[str]]:
    """Return by rule the names of the inputs that its code can look at.

    An input is a VMCS field, an attribute of `Processor`, or `instruction`, `launch_state` or
    `memory`. What only reaches a rule through a word of `Entry` counts as named by it. Without
    `conditions`, what only decides whether the rule applies is left out.
    """
    views = {name: frozenset(_names_in(view)) for name, view in chapter.views.items()}
    derived = derived_words()
    rules = chapter.rules
    if not conditions:
        rules = tuple(replace(rule, condition=None) for rule in rules)
    return {rule.name: _inputs(rule, views, derived) for rule in rules}


def _inputs(
    rule: Rule,
    views: Mapping[str, frozenset[str]],
    derived: Mapping[str, frozenset[str]],
) -> frozenset[str]:
    names = set(_names_in(rule.predicate))
    if rule.condition is not None:
        names.update(_names_in(rule.condition))
    if rule.view is not None:
        names.update(views[rule.view])
        if rule.view in SEGMENTS:
            parts = ("selector", "base", "limit", "ar_bytes")
            names.update(f"guest_{rule.view}_{part}" for part in parts)
    for word in names & derived.keys():
        names |= derived[word]
    return frozenset(names & (_FIELD_NAMES | _PROCESSOR_NAMES | _ATTEMPT_NAMES))


@cache
def derived_words() -> Mapping[str, frozenset[str]]:
    """Return by attribute of `Entry` the inputs that it is computed from.

    Found by changing one input at a time of many arbitrary attempts and looking what follows.
    """
    words = [name for name in Entry.__slots__ if name not in _WHOLE]
    found: dict[str, set[str]] = {word: set() for word in words}
    source = Random(0)
    for _ in range(_ATTEMPTS):
        start = _arbitrary(source)
        before = Entry(start)
        for name, changed in _neighbours(start):
            after = Entry(changed)
            for word in words:
                if getattr(before, word) != getattr(after, word):
                    found[word].add(name)
    return {word: frozenset(names) for word, names in found.items()}


def _arbitrary(source: Random) -> Attempt:
    vmcs = Vmcs({field.name: source.getrandbits(field.width) for field in FIELDS})
    processor = Processor(in_smm=bool(source.getrandbits(1)))
    return Attempt(load_profile("everything"), vmcs, processor)


def _neighbours(start: Attempt) -> Iterator[tuple[str, Attempt]]:
    """Yield the attempt with each field complemented, and with each processor attribute changed."""
    for field in FIELDS:
        complement = ~getattr(start.vmcs, field.name) & (1 << field.width) - 1
        yield field.name, replace(start, vmcs=start.vmcs.replace({field.name: complement}))
    for name in _PROCESSOR_NAMES:
        value = getattr(start.processor, name)
        other = not value if isinstance(value, bool) else value ^ 1
        yield name, replace(start, processor=replace(start.processor, **{name: other}))


def _names_in(function: Callable[..., Any]) -> Iterator[str]:
    """Yield every attribute, global and constant string in a function and those it calls here."""
    seen: set[int] = set()
    waiting: list[object] = [function]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, str):
            yield item
        elif isinstance(item, Given):
            waiting += [*item.word.split("."), item.test]
        elif isinstance(item, tuple | frozenset):
            waiting.extend(item)
        elif isinstance(item, CodeType):
            yield from item.co_names
            waiting.extend(item.co_consts)
        elif isinstance(item, FunctionType) and item.__module__.startswith(_PACKAGE):
            waiting.append(item.__code__)
            waiting.extend(item.__globals__.get(name) for name in _all_names(item.__code__))
            waiting.extend(cell.cell_contents for cell in item.__closure__ or ())
            waiting.extend(item.__defaults__ or ())
        elif isinstance(item, type) and item.__module__.startswith(_PACKAGE):
            waiting.extend(
                value for value in vars(item).values() if isinstance(value, FunctionType)
            )


def _all_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _all_names(constant)
