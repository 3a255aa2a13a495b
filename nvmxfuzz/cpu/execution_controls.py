# SPDX-License-Identifier: GPL-2.0-only
"""Checks on VM-execution control fields; `SECTION` gathers the rules of the files named here.

An entry that returns from SMM has none of them: `smm_return` says what it has instead. Not here,
because a case does not say it: what SEAM adds.
"""

from __future__ import annotations

from nvmxfuzz.cpu import execution_apic, execution_general, execution_translation

SECTION = execution_general.SECTION

__all__ = ["SECTION", "execution_apic", "execution_translation"]
