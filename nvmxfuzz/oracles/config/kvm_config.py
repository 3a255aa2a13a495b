# SPDX-License-Identifier: GPL-2.0-only
"""What must hold between the model of setup_vmcs_config() and the function itself.

The same result, and on success the same control words, capabilities, basic and misc; with either,
the same lines of the log with the same numbers in them, as often and in the same order.

Three things cannot be seen from outside, or are printed elsewhere:

* Which of its conditions refused the table: -EIO is compared, and what was printed before it.
* When in the course of the function an absent MSR was read: that warning comes from the kernel's
  exception fixup and not from KVM, so that its place among the others is left out.
* The warning about the PERF_GLOBAL_CTRL erratum where it is the caller that prints it (6.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from nvmxfuzz.inputs.case import ConfigCase
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.source import Kernel
from nvmxfuzz.kvm.vmcs_config import ConfigOutcome, KernelWarning, VmcsConfig
from nvmxfuzz.oracles.config.capability_config import Loading, Run, loading_of
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.oracle import Oracle

NAME: Final = "agreement.kvm-config"

Relation = Literal["agreed", "different", "not-representable", "stopped"]
"""Both say the same, or do not; the built kernel cannot be such a host; it did not return."""

Difference: TypeAlias = tuple[str, str, str]
"""(what differs, where, message)."""

_FROM_THE_KERNEL: Final = "unchecked_rdmsr"
_FROM_THE_CALLER: Final = "perf_global_ctrl_erratum"


@dataclass(frozen=True, slots=True)
class NoConfig:
    """Why the real function has no outcome, with a sentence."""

    relation: Literal["not-representable", "stopped"]
    reason: str


class RealConfig(Protocol):
    """The real setup_vmcs_config() of one kernel version."""

    @property
    def kernel(self) -> str:
        """The version, as `nvmxfuzz.kvm.source` has it."""

    def observe(
        self, host: HostCpu, kernel: Kernel, params: ModuleParams
    ) -> ConfigOutcome | NoConfig:
        """Return what it makes of a host; `kernel` is the one that the object was built from."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the real function compares to the model; `differences` are empty unless it differs."""

    relation: Relation
    differences: tuple[Difference, ...] = ()


AGREED: Final = Comparison("agreed")


def compare(model: ConfigOutcome, real: ConfigOutcome | NoConfig, kernel: Kernel) -> Comparison:
    """Compare what the model says of a host to what the real function did."""
    if isinstance(real, NoConfig):
        seen = (("returned", real.reason, f"the real function did not return: {real.reason}"),)
        return Comparison(real.relation, seen if real.relation == "stopped" else ())
    if model == real:
        return AGREED
    differences = tuple(_differences(model, real, kernel))
    return Comparison("different", differences) if differences else AGREED


def _differences(model: ConfigOutcome, real: ConfigOutcome, kernel: Kernel) -> Iterator[Difference]:
    if model.errno != real.errno:
        where = model.site or "accepted"
        yield "result", where, f"the model has {model.errno} ({where}), the kernel {real.errno}"
    elif (model.config is None) != (real.config is None):
        yield "result", "config", "only one of the two made a config"
    elif model.config != real.config:
        yield from _different_words(model.config, real.config)
    yield from _different_warnings(model.warnings, real.warnings, kernel)


def _different_words(model: VmcsConfig | None, real: VmcsConfig | None) -> Iterator[Difference]:
    for word in VmcsConfig.__dataclass_fields__:
        ours, theirs = getattr(model, word), getattr(real, word)
        if ours != theirs:
            yield "word", word, f"{word} is {_hex(ours)} in the model, {_hex(theirs)} in the kernel"


def _different_warnings(
    model: tuple[KernelWarning, ...], real: tuple[KernelWarning, ...], kernel: Kernel
) -> Iterator[Difference]:
    for group in (_of_the_function, _of_the_fixup):
        ours, theirs = group(model, kernel), group(real, kernel)
        if ours != theirs:
            sites = {warning.site for warning in set(ours) ^ set(theirs)}
            where = ", ".join(sorted(sites)) or "how often, or in which order"
            said = f"the model warns {_listed(ours)}, the kernel {_listed(theirs)}"
            yield "warnings", where, said


def _of_the_function(warnings: tuple[KernelWarning, ...], kernel: Kernel) -> list[KernelWarning]:
    elsewhere = {_FROM_THE_KERNEL}
    if not kernel.perf_global_ctrl_erratum_in_config:
        elsewhere.add(_FROM_THE_CALLER)
    return [warning for warning in warnings if warning.site not in elsewhere]


def _of_the_fixup(warnings: tuple[KernelWarning, ...], _: Kernel) -> list[KernelWarning]:
    return [warning for warning in warnings if warning.site == _FROM_THE_KERNEL]


def _hex(value: int | None) -> str:
    return "not kept" if value is None else f"{value:#x}"


def _listed(warnings: list[KernelWarning]) -> str:
    shown = (f"{warning.site}({', '.join(map(hex, warning.arguments))})" for warning in warnings)
    return ", ".join(shown) or "of nothing"


def agreement(real: RealConfig) -> Oracle[ConfigCase, Run]:
    """Return the oracle that compares the model to `real`, in cases on the kernel of `real`."""

    def agrees(case: ConfigCase, run: Run) -> Finding | None:
        """The real setup_vmcs_config() comes to the model's result, config and warnings."""
        if case.kernel != real.kernel:
            return None
        loading = loading_of(case)
        return _finding(loading, examine(loading, run, real.observe))

    return Oracle(NAME, "the function itself, built from the kernel's source", agrees)


def examine(
    loading: Loading,
    run: Run,
    observe: Callable[[HostCpu, Kernel, ModuleParams], ConfigOutcome | NoConfig],
) -> Comparison:
    """Compare the model `run` to the real function on one loading of the module."""
    subject = loading.host, loading.kernel, loading.params
    return compare(run(*subject), observe(*subject), loading.kernel)


def _finding(loading: Loading, found: Comparison) -> Finding | None:
    if not found.differences:
        return None
    rule, site, message = found.differences[0]
    version = loading.kernel.version
    return Finding(NAME, (rule,), (f"kvm {version}", f"kvm-{version}"), site, message)
