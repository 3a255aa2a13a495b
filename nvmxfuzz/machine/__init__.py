# SPDX-License-Identifier: GPL-2.0-only
"""State, as frozen values: a processor, its mode, a VMCS, memory, and what an entry came to."""
