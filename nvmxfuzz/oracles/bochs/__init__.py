# SPDX-License-Identifier: GPL-2.0-only
"""What must hold between the rules and Bochs, and where Bochs is known to differ."""
