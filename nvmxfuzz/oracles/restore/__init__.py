# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of the capability MSRs of a vCPU, whatever userspace does with them."""
