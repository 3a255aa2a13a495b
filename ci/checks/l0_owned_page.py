#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Check that docs/l0-owned.md is what the merge, the rules and the corpus make; --write writes it.

For each rule about what never reaches vmcs02 as L1 wrote it, the model of KVM is asked what becomes
of the cases of the corpus that break it. A rule that nothing covers is a failure of this check.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ci.pages import keep
from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.cpu.rule import Rule
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.inputs.rebase import rebase
from nvmxfuzz.kvm.vmcs02_routes import DECIDED_BY, NEVER_REACHES
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.oracles.kvm.known import entries_of, tables_of
from nvmxfuzz.oracles.kvm.l0_owned import always_out_of_reach
from nvmxfuzz.oracles.kvm.tables import KvmDifference
from nvmxfuzz.targets.kvm_model import KvmModel

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "l0-owned.md"
KERNELS = ("6.1", "6.12")
PROCESSORS = ("skylake-x", "sapphire-rapids", "penryn")
"""What KVM runs on. The profile "everything" is left out: KVM gives L1 there what it never has."""

ALLOWED = frozenset(
    f"{word}.allowed"
    for word in (
        "execution.pin-based",
        "execution.primary",
        "execution.secondary",
        "exit.controls",
        "entry.controls",
    )
)
"""Checks of KVM's that refuse a control which it does not offer L1."""

NOT_FOR_KVM = {
    "space.host.no-intel-64": "KVM of 64 bits runs on no processor without Intel 64",
    "space.guest.no-intel-64": "KVM of 64 bits runs on no processor without Intel 64",
}
"""Rules on processors that KVM does not run on."""

HEAD = """# What only KVM's software can check

<!-- generated: .venv/bin/python ci/checks/l0_owned_page.py --write -->

The processor that runs vmcs02 finds what is wrong with vmcs12 where KVM copies it. Of what is not
copied, nobody but KVM's software can check anything. `nvmxfuzz/kvm/vmcs02_routes.py` has for each
field the way that `prepare_vmcs02()` takes; tests hold it against the merge of the model, and the
merge against real KVM. Which fields a rule looks at is read off its code (`nvmxfuzz/cpu/reads.py`).
So it is known which rules the processor cannot check, and this page says for each who does:

- a check of KVM's refuses what breaks it, here by its name in the model;
- a [known difference](known-differences-kvm.md) says that nobody does, or that the processor does,
  since what KVM makes of the field is wrong whenever the field is;
- KVM does not offer L1 what the rule is about: the check that is named refuses the control.

This is what the model does with the cases of `corpus/` that break the rule, on the virtual
processors of Linux 6.1 and 6.12. The oracle `entry.l0-owned` asks the same of every case of a
campaign: if it breaks only such rules, KVM's software refuses it, or a known difference says why
not.
"""


@dataclass(slots=True)
class Cover:
    """What becomes of the cases that break a rule, in one kernel."""

    refused: set[str] = field(default_factory=set)
    """Checks of KVM's, where no other rule is broken."""
    beside: set[str] = field(default_factory=set)
    """The same where others are."""
    known: set[str] = field(default_factory=set)
    not_offered: set[str] = field(default_factory=set)
    not_shown: set[str] = field(default_factory=set)
    """Why no case can be shown to KVM."""
    passed: bool = False
    """KVM's software lets a case pass, and nothing says why."""

    def text(self) -> str:
        """Return the cell of the table, "" if nothing covers the rule."""
        if self.passed:
            return ""
        parts = [f"`{name}`" for name in sorted(self.refused or self.beside)]
        parts += sorted(self.known)
        if not parts:
            parts = [f"not offered: `{name}`" for name in sorted(self.not_offered)]
        return "; ".join(parts or sorted(self.not_shown))


def covers(kernel: str, cases: Sequence[tuple[Path, EntryCase]]) -> Mapping[str, Cover]:
    """Return by rule what the model of a kernel does where it is broken."""
    model = KvmModel(kernel)
    found = {rule.name: Cover() for rule in CHAPTER.rules}
    for path, case in cases:
        for processor in PROCESSORS:
            moved = rebase(case, (f"kvm-{kernel}-{processor}",))
            assert isinstance(moved, EntryCase)
            broken = path.parent.name if path.name.startswith("broken") else ""
            _look(model, moved.attempt, broken, found)
    for name, why in NOT_FOR_KVM.items():
        found[name].not_shown.add(why)
    return found


def _look(model: KvmModel, attempt: Attempt, about: str, found: Mapping[str, Cover]) -> None:
    """Note what the model does with a case, which is `about` breaking a rule, or about nothing."""
    seen = model.run(attempt)
    judgement = vm_entry(attempt)
    broken = judgement.broken_names
    if seen.outcome is None:
        for name in {*broken, about} & found.keys():
            found[name].not_shown.add(seen.reason)
        return
    check = seen.messages[0].text if seen.messages else ""
    if seen.outcome != ENTERED:
        for name in broken:
            (found[name].refused if len(broken) == 1 else found[name].beside).add(check)
        if about in found and about not in broken and check in ALLOWED:
            found[about].not_offered.add(check)
        return
    tables = tables_of(model.name)
    names = tables.software.names_applied(attempt, judgement, tables.software.judge(attempt))
    known = [each for each in entries_of(model.name) if each.name in names]
    for name in broken:
        by = {_told(each) for each in known if name in each.unchecked}
        found[name].known |= by
        found[name].passed |= not by


def _told(entry: KvmDifference) -> str:
    who = "the processor" if entry.later == "hardware" else "nobody"
    return f"checked by {who} (`{entry.name}`)"


def cases_of_the_corpus() -> Iterator[tuple[Path, EntryCase]]:
    """Yield the VM entries of the corpus."""
    for path in sorted((ROOT / "corpus").rglob("*.toml")):
        case = load_case(path.read_bytes(), str(path.relative_to(ROOT)))
        if isinstance(case, EntryCase):
            yield path, case


def page(found: Mapping[str, Mapping[str, Cover]]) -> Iterator[str]:
    """Yield the lines of the page."""
    hidden, changed = owned()
    about = {name for rule in hidden for name in always_out_of_reach(rule.name)}
    yield from HEAD.splitlines()
    yield ""
    yield "## Fields whose value never reaches vmcs02"
    yield ""
    yield f"{len(NEVER_REACHES)} fields, {len(about)} of them with rules. Without any rule:"
    yield (
        ", ".join(
            f"`{each.name}`"
            for each in FIELDS
            if each.name in NEVER_REACHES - about and each.type != "exit-info"
        )
        + ";"
    )
    yield "and what VM exit writes."
    yield ""
    yield "These reach it only with a control, and no rule is about them without it: " + (
        ", ".join(f"`{name}`" for name in sorted(DECIDED_BY)) + "."
    )
    yield ""
    yield f"## Rules about them ({len(hidden)})"
    yield ""
    yield from _table(hidden, found)
    yield ""
    yield f"## Rules about what reaches vmcs02 changed ({len(changed)})"
    yield ""
    yield "KVM makes these fields of L1's and its own, or puts another address there."
    yield ""
    yield from _table(changed, found)


def owned() -> tuple[list[Rule], list[Rule]]:
    """Return the rules about fields that never reach vmcs02, and about what reaches it changed."""
    rules = [rule for rule in CHAPTER.rules if always_out_of_reach(rule.name)]
    hidden = [rule for rule in rules if NEVER_REACHES.issuperset(always_out_of_reach(rule.name))]
    return hidden, [rule for rule in rules if rule not in hidden]


def _table(rules: Iterable[Rule], found: Mapping[str, Mapping[str, Cover]]) -> Iterator[str]:
    yield "| rule | fields | KVM |"
    yield "| --- | --- | --- |"
    for rule in rules:
        texts = {kernel: found[kernel][rule.name].text() for kernel in KERNELS}
        first = texts[KERNELS[0]]
        same = all(text == first for text in texts.values())
        cell = first if same else "; ".join(f"{each}: {text}" for each, text in texts.items())
        fields = ", ".join(f"`{name}`" for name in always_out_of_reach(rule.name))
        yield f"| `{rule.name}` | {fields} | {cell} |"


def uncovered(found: Mapping[str, Mapping[str, Cover]]) -> list[str]:
    """Return the rules that nobody checks, as far as the corpus tells, and nothing says why."""
    hidden, changed = owned()
    return [
        f"{kernel}: {rule.name}"
        for kernel in found
        for rule in (*hidden, *changed)
        if not found[kernel][rule.name].text()
    ]


def main() -> int:
    """Compare or write the page; return the exit status."""
    cases = tuple(cases_of_the_corpus())
    found = {kernel: covers(kernel, cases) for kernel in KERNELS}
    missing = uncovered(found)
    if missing:
        print("nobody checks these rules, and nothing says why: " + ", ".join(missing))
        return 1
    return keep({PAGE: "\n".join(page(found)) + "\n"}, "l0_owned_page.py")


if __name__ == "__main__":
    sys.exit(main())
