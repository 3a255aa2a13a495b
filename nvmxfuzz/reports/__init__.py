# SPDX-License-Identifier: GPL-2.0-only
"""What people and programs read of a campaign."""
