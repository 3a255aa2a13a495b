# SPDX-License-Identifier: GPL-2.0-only
"""What happens to a finding after it was found: see it again, make it small."""
