# SPDX-License-Identifier: GPL-2.0-only
"""Pointers to and entries of paging structures that VM entry checks, and memory types.

SDM: "Extended-Page-Table Pointer (EPTP)", "Hypervisor-Managed Linear-Address Translation",
"PAE Paging" and "Memory Types".
"""

from nvmxfuzz.arch.bits import Bit, Named, bit, mask


class MemoryType:
    """Memory types as the PAT, the EPTP and IA32_VMX_BASIC encode them."""

    UC = Named(0, "uncacheable", "X86_MEMTYPE_UC")
    WC = Named(1, "write combining", "X86_MEMTYPE_WC")
    WT = Named(4, "write-through", "X86_MEMTYPE_WT")
    WP = Named(5, "write-protected", "X86_MEMTYPE_WP")
    WB = Named(6, "write-back", "X86_MEMTYPE_WB")
    UC_MINUS = Named(7, "uncached (PAT only)", "X86_MEMTYPE_UC_MINUS")


class Eptp:
    """Extended-page-table pointer, 64 bits."""

    MEMORY_TYPE = mask(2, 0, "EPT paging-structure memory type", "VMX_EPTP_MT_MASK")
    PAGE_WALK_LENGTH = mask(5, 3, "EPT page-walk length, less one", "VMX_EPTP_PWL_MASK")
    ACCESSED_DIRTY = bit(6, "enable accessed and dirty flags for EPT", "VMX_EPTP_AD_ENABLE_BIT")
    SUPERVISOR_SHADOW_STACK = bit(7, "enforce access rights for supervisor shadow-stack pages")
    RESERVED = mask(11, 8, "reserved")


class Hlatp:
    """Hypervisor-managed linear-address translation pointer, 64 bits."""

    PWT = bit(3, "page-level write-through")
    PCD = bit(4, "page-level cache disable")
    RESERVED = Bit(0x0000_0FE7, "reserved")


class Pdpte:
    """Page-directory-pointer-table entry of PAE paging, 64 bits."""

    P = bit(0, "present")
    PWT = bit(3, "page-level write-through")
    PCD = bit(4, "page-level cache disable")
    RESERVED = Bit(0x0000_01E6, "reserved")
