# SPDX-License-Identifier: GPL-2.0-only
"""The real KVM, common code and VMX, unmodified, built for user space and driven from Python."""
