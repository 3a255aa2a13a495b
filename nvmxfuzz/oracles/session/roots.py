# SPDX-License-Identifier: GPL-2.0-only
"""Where the paging structures of a guest begin: 6.1 ends a guest whose are in no memory."""

from __future__ import annotations

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.registers import Cr0
from nvmxfuzz.oracles.session.play import Played
from nvmxfuzz.oracles.session.state import State
from nvmxfuzz.oracles.session.witness import MEMORY_END


def has_ept(played: Played) -> bool:
    """Whether KVM uses EPT in the world of a session."""
    world = played.case.world
    able = world.profile.caps.secondary_may & Secondary.ENABLE_EPT
    return bool(world.parameter("ept")) and able != 0


def is_in_no_memory(state: State) -> bool:
    """Whether KVM finds no memory where the structures that it reads first are to be."""
    return _root(state) >= MEMORY_END


def _root(state: State) -> int:
    if state.view.in_l2 and state.has_ept:
        return state.vmcs12.get("ept_pointer", 0)
    return state.sregs["cr3"] if state.sregs["cr0"] & Cr0.PG else 0
