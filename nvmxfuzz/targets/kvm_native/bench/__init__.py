# SPDX-License-Identifier: GPL-2.0-only
"""What KVM's code costs, in instructions that were executed one by one."""
