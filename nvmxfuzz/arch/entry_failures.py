# SPDX-License-Identifier: GPL-2.0-only
"""Exit qualifications of VM-entry failures with exit reason 33.

SDM: "VM-Entry Failures During or After Loading Guest State". With exit reason 34 the
qualification is the number, from 1, of the entry of the VM-entry MSR-load area that failed.
"""

from nvmxfuzz.arch.bits import Named


class EntryFailure:
    """Exit qualifications of VM-entry failures due to invalid guest state."""

    DEFAULT = Named(0, "no further information", "ENTRY_FAIL_DEFAULT")
    PDPTE = Named(2, "loading the PDPTEs", "ENTRY_FAIL_PDPTE")
    NMI = Named(3, "injecting an NMI into a guest that blocks events by STI", "ENTRY_FAIL_NMI")
    VMCS_LINK_POINTER = Named(4, "invalid VMCS link pointer", "ENTRY_FAIL_VMCS_LINK_PTR")
