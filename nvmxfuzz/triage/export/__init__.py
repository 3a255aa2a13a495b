# SPDX-License-Identifier: GPL-2.0-only
"""A case or a finding as something that stands alone, without a store and without this checkout."""
