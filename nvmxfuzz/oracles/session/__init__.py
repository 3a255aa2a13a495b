# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of sessions: steps of L1, L2, userspace and the platform, one after the other."""
