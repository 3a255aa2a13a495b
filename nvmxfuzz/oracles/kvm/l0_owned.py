# SPDX-License-Identifier: GPL-2.0-only
"""What only KVM's software can check: the rules about what never reaches vmcs02 as L1 wrote it.

The processor that runs vmcs02 finds what is wrong with vmcs12 only where that is copied. Which
fields are is in the model's own merge; which fields a rule looks at is read off its code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.reads import inputs_by_rule
from nvmxfuzz.cpu.vm_entry import CHAPTER
from nvmxfuzz.kvm.vmcs02_routes import NEVER_REACHES, ROUTES, Route, reaches
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.kvm.tables import KvmTables

L0_OWNED: Final = "entry.l0-owned"

_CHANGED: Final = frozenset({Route.MERGED, Route.TRANSLATED})


def out_of_reach(rule: str, vmcs12: Vmcs) -> tuple[str, ...]:
    """Return the fields for which the processor below KVM cannot check a rule; () if it can.

    They are those that the rule looks at and that do not reach vmcs02: what the rule demands
    something of, if there is any of it, else what decides whether it applies. Where all reach it,
    they are those that it demands something of, if none of them stays as L1 wrote it.
    """
    return _unreached(rule, lambda name: reaches(name, vmcs12))


def always_out_of_reach(rule: str) -> tuple[str, ...]:
    """Return the same where it does not depend on vmcs12."""
    return _unreached(rule, lambda name: name not in NEVER_REACHES)


def _unreached(rule: str, reached: Callable[[str], bool]) -> tuple[str, ...]:
    checked, looked_at = _fields_of_rules()[rule]
    hidden = {name for name in looked_at if not reached(name)}
    if hidden:
        return tuple(sorted(hidden & checked or hidden))
    changed = all(ROUTES[name].route in _CHANGED for name in checked)
    return tuple(sorted(checked)) if changed else ()


@cache
def _fields_of_rules() -> Mapping[str, tuple[frozenset[str], frozenset[str]]]:
    """Return by rule the fields of the VMCS that it demands something of, and all it looks at."""
    checked = inputs_by_rule(CHAPTER, conditions=False)
    fields = frozenset(ROUTES)
    return MappingProxyType(
        {
            name: (checked[name] & fields, looked_at & fields)
            for name, looked_at in inputs_by_rule(CHAPTER).items()
        }
    )


def l0_owned(
    judgement: Judgement,
    virtual: Attempt,
    tables: KvmTables,
) -> tuple[str, tuple[str, ...]] | None:
    """Return a rule that nobody can check, and the fields that it is about; None if there is none.

    KVM's software has let pass what `judgement`, that of `virtual`, is about. There is such a rule
    where nothing but rules are broken that software alone can check, and no entry says why.
    """
    if (
        judgement.rules is not CHAPTER.rules
        or not judgement.broken
        or tables.left.issuperset(judgement.broken)
    ):
        return None
    names = judgement.broken_names
    owned = {name: out_of_reach(name, virtual.vmcs) for name in names}
    if not all(owned.values()):
        return None
    corrected = tables.software.judge(virtual)
    if ENTERED in corrected.permitted:
        return None
    blamed = next((name for name in corrected.broken_names if name in owned), names[0])
    return blamed, owned[blamed]


def finding(target: str, rule: str, fields: tuple[str, ...]) -> Finding:
    """Return the finding that nobody can catch what breaks a rule about these fields."""
    names = " and ".join(fields)
    said = f"KVM's software lets VM entry pass, {rule} is broken, and nobody can ever catch this: "
    return Finding(
        L0_OWNED, (rule,), ("cpu", target), names, f"{said}vmcs02 is without L1's {names}"
    )
