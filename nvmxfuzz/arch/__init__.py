# SPDX-License-Identifier: GPL-2.0-only
"""The vocabulary: names and numbers of the VMX architecture, as tables and nothing else."""
