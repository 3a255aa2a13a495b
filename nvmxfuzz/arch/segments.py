# SPDX-License-Identifier: GPL-2.0-only
"""Segment registers and the format of their access rights in the VMCS.

SDM: "Guest Register State". The format differs from what LAR returns.
"""

from nvmxfuzz.arch.bits import Bit, Named, bit, mask

# In the order of the VMCS field encodings.
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")


class AccessRights:
    """Access rights of a segment register, 32 bits."""

    TYPE = mask(3, 0, "segment type", "VMX_AR_TYPE_MASK")
    S = bit(4, "descriptor type (0 = system; 1 = code or data)", "VMX_AR_S_MASK")
    DPL = mask(6, 5, "descriptor privilege level")
    P = bit(7, "segment present", "VMX_AR_P_MASK")
    AVL = bit(12, "available for use by system software")
    L = bit(13, "64-bit mode active (CS only)", "VMX_AR_L_MASK")
    DB = bit(14, "default operation size", "VMX_AR_DB_MASK")
    G = bit(15, "granularity", "VMX_AR_G_MASK")
    UNUSABLE = bit(16, "segment unusable", "VMX_AR_UNUSABLE_MASK")
    RESERVED = Bit(0xFFFE_0F00, "reserved", "VMX_AR_RESERVD_MASK")


class SegmentType:
    """Bits of the type of a code or data segment (S = 1), and whole types that the checks name."""

    ACCESSED = bit(0, "accessed", "VMX_AR_TYPE_ACCESSES_MASK")
    # Bit 1 is "writable" in a data segment and "readable" in a code segment, bit 2 "expand-down"
    # or "conforming".
    WRITABLE = bit(1, "writable (data)")
    READABLE = bit(1, "readable (code)", "VMX_AR_TYPE_READABLE_MASK")
    EXPAND_DOWN = bit(2, "expand-down (data)")
    # The kernel's name for this bit is misleading, its value is the conforming bit's.
    CONFORMING = bit(2, "conforming (code)", "VMX_AR_TYPE_WRITEABLE_MASK")
    CODE = bit(3, "code", "VMX_AR_TYPE_CODE_MASK")

    LDT = Named(2, "LDT", "VMX_AR_TYPE_LDT")
    DATA_ACCESSED = Named(3, "read/write accessed data segment")
    BUSY_16_TSS = Named(3, "16-bit busy TSS", "VMX_AR_TYPE_BUSY_16_TSS")
    BUSY_32_TSS = Named(11, "32-bit busy TSS", "VMX_AR_TYPE_BUSY_32_TSS")
    BUSY_64_TSS = Named(11, "64-bit busy TSS", "VMX_AR_TYPE_BUSY_64_TSS")


class Selector:
    """A segment selector, 16 bits."""

    RPL = mask(1, 0, "requested privilege level")
    TI = bit(2, "table indicator")
    INDEX = mask(15, 3, "index")
