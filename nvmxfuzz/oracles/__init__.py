# SPDX-License-Identifier: GPL-2.0-only
"""What must hold over a run: one file per area, and the finding that an oracle reports."""
