# SPDX-License-Identifier: GPL-2.0-only
"""Where a VM entry runs: witnesses that take an attempt and say what came of it."""
