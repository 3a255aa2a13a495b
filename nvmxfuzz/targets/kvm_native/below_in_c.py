# SPDX-License-Identifier: GPL-2.0-only
"""A processor below a seat that is a function of this process, which C calls without Python.

While the VMCS alone differs, that is: shim/runtime/below.c sees to it, and asks the target itself
through Python about anything else.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.at_hand import AtHand, HasAtHand, Place
from nvmxfuzz.targets.base import Target
from nvmxfuzz.targets.kvm_native import native
from nvmxfuzz.targets.kvm_native.below import LATER, Below
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.port import VMCALL, Answer, action

_GUEST: Final = action(VMCALL)


class BelowInC(Below):
    """The same on a vCPU whose `Direct.run_loop` it is for; any target will do."""

    def __init__(self, target: Target, host: Profile, library: Library, vcpu: int) -> None:
        super().__init__(target, host)
        self._has_at_hand = target if isinstance(target, HasAtHand) else None
        self._at_hand: AtHand | None = None
        self._function = native.Function()
        self._otherwise = library.port_of(self.port_of(library, vcpu))
        self.native = native.Below(otherwise=self._otherwise, guest=_GUEST, later=LATER)
        """What C is told, as long as this object lives."""

    def answer(self, attempt: Attempt) -> Answer:
        """Return what the target makes of a VM entry, and name the function for those like it."""
        if self._at_hand is not None:
            self._at_hand.forget()
        answer = super().answer(attempt)
        if self._has_at_hand is not None:
            self._name(self._has_at_hand.at_hand(attempt))
        return answer

    def _name(self, at_hand: AtHand | None) -> None:
        if at_hand is not None:
            if at_hand is not self._at_hand:
                self._function = function_of(at_hand)
            self.native.function = self._function
            self.native.stamp = at_hand.stamp.value
        # C may call the last one no more: its place was empty when the target was asked.
        self._at_hand = at_hand


def function_of(at_hand: AtHand) -> native.Function:
    """Return the structure, which is valid as long as `at_hand` lives."""
    ends = at_hand.ends
    return native.Function(
        enter=at_hand.enter,
        state=at_hand.state,
        instruction=at_hand.instructions,
        places=ctypes.addressof(_table(at_hand.places)),
        end=ends.address,
        error=at_hand.error,
        stamp=ctypes.addressof(at_hand.stamp),
        count=len(at_hand.places),
        size=at_hand.size,
        launch_state=at_hand.launch_state,
        returned=ends.returned,
        entered=ends.entered,
        exited=ends.exited,
        harmless=ends.harmless,
        faulted=ends.faulted,
    )


@cache
def _table(places: tuple[Place, ...]) -> ctypes.Array[native.Place]:
    # Never given back: there are as many as processors have formats of a VMCS, which are few.
    return (native.Place * len(places))(
        *(native.Place(place.encoding, place.at, place.size, place.rotated) for place in places)
    )
