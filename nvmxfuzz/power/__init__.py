# SPDX-License-Identifier: GPL-2.0-only
"""Proof of power: faults that are planted one at a time, and how soon a campaign finds each."""
