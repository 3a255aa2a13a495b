# SPDX-License-Identifier: GPL-2.0-only
"""One format of a case: its layout, named bases, the binary codec, TOML and raw JSON."""
