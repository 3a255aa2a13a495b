# SPDX-License-Identifier: GPL-2.0-only
"""Which of the checks of nested.c cases and scenarios make fail on the real KVM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.rebase import rebase
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.machine.profile import profile_names
from nvmxfuzz.targets.base import Observation
from nvmxfuzz.targets.kvm_native.build.objects import find_object
from nvmxfuzz.targets.kvm_native.check_scenarios import SCENARIOS, WITHOUT_CHECK, play
from nvmxfuzz.targets.kvm_native.checks_in_source import nested_source, place_of, sites_of
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.target import KvmTarget, loader

UNREACHABLE: Final = {
    "nested_vmx_check_mode_based_ept_exec_controls 02a19e71": "KVM offers L1 no mode-based execute "
    "control: that it is set fails at the allowed settings of the secondary controls before",
    "nested_vmx_check_host_state ad806e7b": "KVM offers L1 no CET: that CR4.CET is set fails at "
    "the fixed bits of CR4 before",
    "nested_vmx_check_guest_state c61a38f3": "KVM offers L1 no CET: that CR4.CET is set fails at "
    "the fixed bits of CR4 before",
}
"""Checks that no VM entry on Linux 6.1 or 6.12 can make fail, and why, by the name of the site."""


class CheckRuns:
    """One kernel: the places of its checks, and which of them something makes fail."""

    def __init__(
        self,
        kernel: str,
        parameters: Mapping[str, int] | None = None,
        load: Callable[[], Library] | None = None,
    ) -> None:
        """Have the object loaded by `load`, or its plain variant; KVM gets the parameters."""
        self._load = load or loader(kernel)
        self._target = KvmTarget(kernel, load=self._load, parameters=parameters)
        self._offered = [name for name in profile_names() if name.startswith(f"kvm-{kernel}-")]

    def of_case(self, case: EntryCase) -> Iterator[str]:
        """Yield the checks that fail for a case, on its own processor and on those of L1."""
        yield from self._of_attempt(case.attempt)
        for name in self._offered:
            moved = rebase(case, (name,))
            assert isinstance(moved, EntryCase)
            yield from self._of_attempt(moved.attempt)

    def of_scenarios(self) -> Iterator[tuple[str, str]]:
        """Yield the checks that fail in the scenarios, with the scenario.

        No case can be run afterwards: each scenario begins with another machine.
        """
        for name in (*SCENARIOS, *WITHOUT_CHECK):
            for check in play(self._load(), name):
                yield place_of(check.function, check.text), name

    def close(self) -> None:
        """Give back what the processors took."""
        self._target.close()

    def _of_attempt(self, attempt: Attempt) -> Iterator[str]:
        """Yield the checks that fail at VM entry, and at the VM exit after it if it succeeds."""
        seen = self._target.run(attempt)
        if seen.status == "not-representable":
            return
        yield from _failed(seen)
        if seen.outcome == ENTERED:
            yield from _failed(self._target.on_hardware(attempt))


def _failed(seen: Observation) -> Iterator[str]:
    for message in seen.messages:
        condition, found, function = message.template.rpartition(" in ")
        if found:
            yield place_of(function, condition)


def places_of(kernel: str) -> tuple[str, ...]:
    """Return the names of the checks of a kernel, whose source must be in the cache."""
    return tuple(site.place for site in sites_of(nested_source(find_object(kernel))))
