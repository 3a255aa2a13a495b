# SPDX-License-Identifier: GPL-2.0-only
"""Repair: from any attempt to a nearby one that a processor of its profile lets enter.

This is a second statement of what VM entry demands, written from the SDM and not from the rules
of `nvmxfuzz.cpu`: where the two disagree, one of them is wrong. Each area has a file of small
functions that round a few fields against the capabilities and against what they depend on, in an
order in which all that a function looks at is settled before it. What lies in memory may overlap:
the functions that write there run until nothing changes any more.
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.inputs.repair.control_fields import settle_control_fields, settle_tpr_threshold
from nvmxfuzz.inputs.repair.controls import settle_controls
from nvmxfuzz.inputs.repair.draft import Draft
from nvmxfuzz.inputs.repair.events import settle_event
from nvmxfuzz.inputs.repair.guest_flow import settle_guest_flow
from nvmxfuzz.inputs.repair.guest_registers import settle_guest_registers
from nvmxfuzz.inputs.repair.guest_segments import settle_guest_segments
from nvmxfuzz.inputs.repair.guest_state import (
    settle_activity,
    settle_interruptibility,
    settle_link_pointer,
    settle_pending_debug,
)
from nvmxfuzz.inputs.repair.host import settle_host
from nvmxfuzz.inputs.repair.msr_lists import settle_msr_lists
from nvmxfuzz.inputs.repair.narrow import narrow_fields
from nvmxfuzz.inputs.repair.pdptes import settle_pdptes
from nvmxfuzz.inputs.repair.processor import settle_instruction, settle_processor
from nvmxfuzz.inputs.repair.satisfiable import satisfiable
from nvmxfuzz.inputs.repair.smm import settle_executive_pointer, settle_executive_region
from nvmxfuzz.machine.attempt import Attempt

__all__ = ["repair", "satisfiable"]

_FIELDS: Final = (
    settle_processor,
    settle_instruction,
    narrow_fields,
    settle_controls,
    settle_executive_pointer,
    settle_control_fields,
    settle_host,
    settle_guest_registers,
    settle_guest_segments,
    settle_guest_flow,
    settle_activity,
    settle_event,
    settle_interruptibility,
    settle_pending_debug,
)
"""In the order of dependence: none of them undoes what one before it settled."""

_MEMORY: Final = (
    settle_executive_region,
    settle_tpr_threshold,
    settle_link_pointer,
    settle_msr_lists,
    settle_pdptes,
)
"""What looks at memory; structures that overlap there do undo one another."""

_MOST_PASSES: Final = 4


def repair(attempt: Attempt) -> Attempt:
    """Return the attempt, changed as little as is needed to enter the guest.

    An attempt that enters is returned as it is, unless the next VM exit would be undefined, or a
    field is wider than the processor's registers. The result depends on the attempt alone, and
    repairing it again changes nothing. On a profile whose capabilities contradict one another
    (see `satisfiable`) the result is as near to a legal state as that profile lets it be.
    """
    draft = Draft(attempt)
    for settle in _FIELDS:
        settle(draft)
    for number in range(_MOST_PASSES):
        draft.number_of_pass = number
        memory = draft.memory
        for settle in _MEMORY:
            settle(draft)
        if draft.memory is memory:
            break
    return draft.attempt()
