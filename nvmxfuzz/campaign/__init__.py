# SPDX-License-Identifier: GPL-2.0-only
"""Running a harness over many inputs: plan, engines, worker processes, events, store."""
