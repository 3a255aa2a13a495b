# SPDX-License-Identifier: GPL-2.0-only
"""The model of KVM and KVM itself in the same session, as an oracle over cases."""

from __future__ import annotations

from nvmxfuzz.inputs.case import SessionCase
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.session.agreement import AGREEMENT, compare_session
from nvmxfuzz.oracles.session.play import Run, Stage


def agreement(model: Stage, real: Stage) -> Oracle[SessionCase, Run]:
    """Return the oracle that holds the model against KVM of the same version."""

    def agrees(case: SessionCase, _run: Run) -> Finding | None:
        """After each step the model and the real KVM have the same result and the same state."""
        world = case.world
        if world.kernel != real.witness.kernel or model.refusal(world) or real.refusal(world):
            return None
        return compare_session(case.steps, model.witness, real.witness).finding

    return Oracle(AGREEMENT, "KVM itself, built from the kernel's source", agrees)
