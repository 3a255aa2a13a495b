# SPDX-License-Identifier: GPL-2.0-only
"""`python -m nvmxfuzz.cli`: the command where its script is not installed."""

import sys

from nvmxfuzz.cli import main

sys.exit(main())
