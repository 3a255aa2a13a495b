# SPDX-License-Identifier: GPL-2.0-only
"""What KVM does, by kernel version, under the kernel's own function names."""
