# SPDX-License-Identifier: GPL-2.0-only
"""Witness 1: the SDM's chapter on VM entries as rules, one file per section title."""
