# SPDX-License-Identifier: GPL-2.0-only
"""The stages of VM entry in the order the SDM fixes, and what failing each leads to.

Sources: the SDM's pseudocode of VMLAUNCH/VMRESUME and "Basic VM-Entry Checks".
"""

from nvmxfuzz.cpu.rule import Failure
from nvmxfuzz.machine.outcome import FAIL_INVALID, exit_on_entry, fail_valid, fault

UD = Failure(0, fault(6))
GP = Failure(1, fault(13))
VMFAIL_INVALID = Failure(2, FAIL_INVALID)
MOV_SS_BLOCKING = Failure(3, fail_valid(26))
LAUNCH_NOT_CLEAR = Failure(4, fail_valid(4))
RESUME_NOT_LAUNCHED = Failure(4, fail_valid(5))

CONTROLS = Failure(5, fail_valid(7))
HOST_STATE = Failure(5, fail_valid(8))
EXECUTIVE_POINTER = Failure(5, fail_valid(16))
EXECUTIVE_NOT_LAUNCHED = Failure(5, fail_valid(17))
EXECUTIVE_NOT_VMXON = Failure(5, fail_valid(18))
EXECUTIVE_CONTROLS = Failure(5, fail_valid(25))

GUEST_STATE = Failure(6, exit_on_entry(33))
PDPTE = Failure(6, exit_on_entry(33, 2))
NMI_INJECTION = Failure(6, exit_on_entry(33, 3))
VMCS_LINK_POINTER = Failure(6, exit_on_entry(33, 4))

MSR_LOADING_STAGE = 7
MSR_LOADING = Failure(MSR_LOADING_STAGE, exit_on_entry(34))
"""The qualification is the number of the entry that fails: `Judgement` fills it in."""
