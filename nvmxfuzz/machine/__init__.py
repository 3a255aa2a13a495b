# SPDX-License-Identifier: GPL-2.0-only
"""State, as frozen values: a processor model, its mode, a VMCS, memory, and what an entry came to."""
