# SPDX-License-Identifier: GPL-2.0-only
"""The harness of sessions on a KVM that refuses registers while L2 is active."""

from __future__ import annotations

import errno
from dataclasses import replace
from functools import cache

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.plan import ROOT, load_harness
from nvmxfuzz.campaign.session_targets import on_kernel
from nvmxfuzz.campaign.worker import main
from nvmxfuzz.inputs.case import SessionCase
from nvmxfuzz.inputs.session_steps import SessionStep
from nvmxfuzz.oracles.session.play import Played, Stage, play
from nvmxfuzz.oracles.session.witness import StepResult
from nvmxfuzz.targets.session_model import ModelSessions


class Deaf(ModelSessions):
    """The model of KVM with that fault."""

    def do(self, step: SessionStep) -> StepResult:
        """Refuse what it should take."""
        if step.kind in ("set-segment", "set-regs") and self.read(step.vcpu).in_l2:
            return StepResult(-errno.EINVAL)
        return super().do(step)


@cache
def _stage() -> Stage:
    return Stage(Deaf("6.12"))


def stage(_case: SessionCase) -> Stage:
    """Return the KVM that is at fault."""
    return _stage()


def run(case: SessionCase) -> Played:
    """Play on it."""
    return play(_stage(), case)


def home(case: object) -> object:
    """Return a session on its kernel."""
    return on_kernel("6.12", case)  # type: ignore[arg-type] # sessions alone come here


_SOUND: Harness = load_harness(ROOT / "fuzz" / "session.py")
HARNESS: Harness = replace(_SOUND, run=run, stage=stage, home=home, profiles=("skylake-x",))  # type: ignore[arg-type] # as above

if __name__ == "__main__":
    main(HARNESS)
