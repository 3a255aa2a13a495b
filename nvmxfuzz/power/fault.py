# SPDX-License-Identifier: GPL-2.0-only
"""What a planted fault is, and the table of all of them: `faults/*.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.outside import show
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.power.change import Change
from nvmxfuzz.targets.kvm_native.build.planting import Planted, Way

TABLES: Final = ("model", "rules", "kernel")


@dataclass(frozen=True, slots=True)
class Fault:
    """One small mistake, as hypervisors had them, and who must find it.

    `kind` is a group of the table in docs/power.md, `sentence` what is wrong. A finding is correct
    if its oracle is one of `oracles` and `site`, a regular expression, is found in the rules that
    it names or in its site: so its identity says where the mistake is.
    """

    name: str
    kind: str
    sentence: str
    harness: str
    target: str | None
    oracles: tuple[str, ...]
    site: str
    place: Change | Planted

    @property
    def is_in_kernel(self) -> bool:
        """Whether it is in the source of the real KVM."""
        return isinstance(self.place, Planted)

    @property
    def kernel(self) -> str:
        """The kernel of the real KVM that it is in, "" for none."""
        if not self.is_in_kernel or self.target is None:
            return ""
        return self.target.removeprefix("kvm-").partition("+")[0]

    def is_shown_by(self, finding: Finding) -> bool:
        """Whether a finding is of the right oracle and names the right place."""
        # Oracles that have no rules give their own name for one, which is no place.
        rules = (rule for rule in finding.rules if rule != finding.oracle)
        told = " ".join((*rules, finding.site))
        return finding.oracle in self.oracles and re.search(self.site, told) is not None


@cache
def all_faults() -> Mapping[str, Fault]:
    """Return the faults by name, in the order of the tables."""
    found: dict[str, Fault] = {}
    for table in TABLES:
        text = files(__package__).joinpath("faults", f"{table}.toml").read_text("utf-8")
        document = tomllib.loads(text)
        for number, entry in enumerate(document["fault"], start=1):
            fault = _fault(entry, table, number, document["kinds"])
            if fault.name in found:
                raise ValueError(f"two faults are called {fault.name}")
            found[fault.name] = fault
    return found


def fault_named(name: str) -> Fault:
    """Return the fault of that name; InputError if there is none."""
    fault = all_faults().get(name)
    if fault is None:
        raise InputError(
            f"there is no planted fault {show(name)}: nvmxfuzz bench faults --list names them"
        )
    return fault


def kernel_faults(kernel: str) -> Sequence[Planted]:
    """Return the faults of the real KVM of a kernel, which are all in one object."""
    return [
        fault.place
        for fault in all_faults().values()
        if isinstance(fault.place, Planted) and fault.kernel == kernel
    ]


def _fault(entry: Mapping[str, Any], table: str, number: int, kinds: Sequence[str]) -> Fault:
    if entry["kind"] not in kinds:
        raise ValueError(f"{entry['name']} is of the kind {entry['kind']}, which the table lacks")
    return Fault(
        name=entry["name"],
        kind=entry["kind"],
        sentence=entry["sentence"],
        harness=entry["harness"],
        target=entry.get("target"),
        oracles=tuple(entry["oracles"]),
        site=entry["site"],
        place=_in_kernel(entry, number) if table == "kernel" else _in_python(entry),
    )


def _in_python(entry: Mapping[str, Any]) -> Change:
    return Change(
        module=entry["module"],
        function=entry["function"],
        before=entry["before"],
        becomes=entry["becomes"],
        nth=entry.get("nth", 0),
    )


def _in_kernel(entry: Mapping[str, Any], number: int) -> Planted:
    way: Way = entry["way"]
    return Planted(
        number=number,
        name=entry["name"],
        file=entry["file"],
        function=entry["function"],
        way=way,
        mentions=tuple(entry["mentions"]),
        becomes=entry["becomes"],
        nth=entry.get("nth", 0),
    )
