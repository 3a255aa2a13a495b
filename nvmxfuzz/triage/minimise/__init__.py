# SPDX-License-Identifier: GPL-2.0-only
"""Making a case small: a problem (what is small, what must stay) and passes that work on it."""

from nvmxfuzz.triage.minimise.passes import minimise
from nvmxfuzz.triage.minimise.problem import Budget
from nvmxfuzz.triage.minimise.sizes import size_of

__all__ = ["Budget", "minimise", "size_of"]
