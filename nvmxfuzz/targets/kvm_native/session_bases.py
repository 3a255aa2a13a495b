# SPDX-License-Identifier: GPL-2.0-only
"""The VMCSs that an L1 of a session writes: bases, repaired for what KVM offers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.repair import repair
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.kvm_native.session_exits import field_access, script
from nvmxfuzz.targets.kvm_native.vmcs12 import Vmcs12Layout

_LONGEST_SCRIPT: Final = 64


class Bases:
    """Of one VM, whose vCPUs are all alike; made when they are asked for."""

    def __init__(self, layout: Vmcs12Layout) -> None:
        known = layout.offsets
        self.fields = tuple(
            field.name for field in FIELDS if field.name in known and field.type != "exit-info"
        )
        """What L1 writes."""
        self.profile: Profile | None = None
        """What KVM offers L1."""
        self._layout = layout
        self._attempts: dict[str, Attempt] = {}
        self._scripts: dict[tuple[str, tuple[str, ...]], tuple[Any, ...]] = {}

    def attempt(self, name: str) -> Attempt:
        """Return a base that enters, without what vmcs12 lacks."""
        found = self._attempts.get(name)
        if found is None:
            if self.profile is None:
                raise ValueError("no VM has been made")
            found = repair(base(name, self.profile))
            found = replace(found, vmcs=self._layout.writable(found.vmcs))
            self._attempts[name] = found
        return found

    def scripts(self, name: str, fields: tuple[str, ...]) -> tuple[Any, ...]:
        """Return the VMWRITEs of some fields; the first script has one alone."""
        found = self._scripts.get((name, fields))
        if found is None:
            values = self.attempt(name).vmcs.items()
            exits = [field_access("vmwrite", each, values[each]) for each in fields]
            starts = (0, *range(1, len(exits), _LONGEST_SCRIPT))
            ends = (*starts[1:], len(exits))
            found = tuple(script(*exits[a:b]) for a, b in zip(starts, ends, strict=True))
            self._scripts[name, fields] = found
        return found
