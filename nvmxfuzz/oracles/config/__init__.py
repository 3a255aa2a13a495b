# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of the config that KVM makes of capability MSRs."""
