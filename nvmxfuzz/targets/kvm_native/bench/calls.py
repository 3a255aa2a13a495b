# SPDX-License-Identifier: GPL-2.0-only
"""A trace as a tree of calls, and how many instructions each call took.

What stands for the processor below KVM does not count: there, on a real one, is one instruction,
and the call of the stand-in is counted in its place. Nor does what stands outside of the built
object: the C library copies memory where a kernel has a string instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from nvmxfuzz.targets.kvm_native.bench.stepping import Step
from nvmxfuzz.targets.kvm_native.symbols import UNKNOWN

Place = Callable[[int], str]
"""Names an address: function+0xoffset, or "?"."""

_STAND_INS: Final = "shim_"
ENTRY: Final = "__vmx_vcpu_run"
"""Where KVM executes VMLAUNCH or VMRESUME."""
_START: Final = "+0x0"


@dataclass(slots=True)
class Call:
    """One call of a function: instructions of its own and of what it called, and those calls."""

    name: str
    sp: int
    own: int = 0
    calls: list[Call] = field(default_factory=list)

    @property
    def instructions(self) -> int:
        """How many instructions it took, with everything that it called."""
        return self.own + sum(call.instructions for call in self.calls)

    def below(self) -> Iterator[Call]:
        """Yield all calls that were made in it, in order."""
        for call in self.calls:
            yield call
            yield from call.below()

    def all_named(self, name: str) -> list[Call]:
        """Return the outermost calls of a function that were made in it, in order."""
        found: list[Call] = []
        for call in self.calls:
            found += [call] if call.name == name else call.all_named(name)
        return found

    def count(self, name: str) -> int:
        """Return how often a function was called in it, which may be a stand-in."""
        return sum(call.name == name for call in self.below())


def tree(steps: Iterable[Step], place: Place) -> Call:
    """Return what a trace did, as a call without a name around it."""
    root = Call("", 1 << 64)
    stack = [root]
    names: dict[int, str] = {}
    for pc, sp in steps:
        while sp > stack[-1].sp:
            stack.pop()
        name = names.get(pc)
        if name is None:
            name = names[pc] = place(pc)
        top = stack[-1]
        if is_below(top.name):
            continue
        if name.endswith(_START) and (name[: -len(_START)] != top.name or sp != top.sp):
            top = Call(name[: -len(_START)], sp)
            stack[-1].calls.append(top)
            stack.append(top)
        if name != UNKNOWN and not is_below(top.name):
            top.own += 1
    return root


def is_below(function: str) -> bool:
    """Whether a function stands for what is below KVM, the processor."""
    return function.startswith(_STAND_INS) or function == ENTRY
