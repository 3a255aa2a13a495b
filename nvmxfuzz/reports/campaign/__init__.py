# SPDX-License-Identifier: GPL-2.0-only
"""The report on campaigns: what is in it (`content`), from where (`gather`), and its forms."""
