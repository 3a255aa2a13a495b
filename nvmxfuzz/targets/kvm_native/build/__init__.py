# SPDX-License-Identifier: GPL-2.0-only
"""From a kernel source to the object that the target loads: extract, configure, compile, link."""
