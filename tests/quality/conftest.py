# SPDX-License-Identifier: GPL-2.0-only
"""The faults are shared with a bench: both find them from the top of the checkout."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
