"""The one exception tree. Every error names the thing, the cause and the next step.

    FleetError
      SpecError        InvalidSpec, UnknownPlugin, InvalidRequest, InvalidAccess
      BuildError       SourceUnavailable, ExportFailed, VariantFailed, ParityFailed, MetricFailed,
                       ProofFailed, InvalidModelConfig, PublishFailed
      ServerError      ServerUnreachable, ServerTimeout, LoadFailed, UnloadFailed
      ResidencyError   ModelNotFound, VersionNotFound, ModelTooLarge, FleetSaturated, PinRefused,
                       NotAllowed, TooMuchHeld, QueueFull, DeadlineExceeded, SharedMemoryRefused,
                       RolloutRefused
      LaunchError      LauncherUnavailable, ServerExited, PortTaken, EngineUnavailable,
                       ImageMissing, ContainerFailed, EngineMismatch, EnvoyMissing,
                       ConfigRejected, BrainFailed
      PerfError        AnalyzerMissing, AnalyzerFailed, Unstable

Constructor arguments stay in ``args`` and the sentence is made by ``__str__``, so that every error
survives a pickle: exports run in processes of their own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from tritonfleet.units import format_bytes


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """The known word closest to a misspelt one, or None when none is close."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


class FleetError(Exception):
    """Anything this toolkit reports to its user."""


class SpecError(FleetError):
    """What the user wrote cannot be meant that way."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a fleet file: where it is, what is wrong, and what to write instead."""

    path: str
    message: str
    line: int | None = None
    suggestion: str | None = None

    def __str__(self) -> str:
        line = f"line {self.line}" if self.line else ""
        hint = f" ({self.suggestion})" if self.suggestion else ""
        return ": ".join(part for part in (line, self.path, self.message) if part) + hint


class InvalidSpec(SpecError):
    """A fleet file with mistakes, all of them."""

    def __init__(self, file: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(file, problems)
        self.file, self.problems = file, problems

    def __str__(self) -> str:
        count = len(self.problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        return f"{self.file} has {count} problem{'s' if count != 1 else ''}:\n{lines}"


class InvalidRequest(SpecError):
    """A message of a client that is not what it should be."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message, cause)
        self.message, self.cause = message, cause

    def __str__(self) -> str:
        return f"the request cannot be read as {self.message}: {self.cause}"


class InvalidAccess(SpecError):
    """A key, token or certificate that the fleet file refers to, and that cannot be used."""

    def __init__(self, what: str, reference: str, cause: str, hint: str) -> None:
        super().__init__(what, reference, cause, hint)
        self.what, self.reference, self.cause, self.hint = what, reference, cause, hint

    def __str__(self) -> str:
        return f"{self.what}, {self.reference}: {self.cause}. {self.hint}"


class UnknownPlugin(SpecError):
    """A source, exporter, policy or launcher nobody has registered."""

    def __init__(self, group: str, name: str, known: tuple[str, ...]) -> None:
        super().__init__(group, name, known)
        self.group, self.name, self.known = group, name, known

    def __str__(self) -> str:
        guess = did_you_mean(self.name, self.known)
        hint = f"Did you mean '{guess}'?" if guess else f"Known: {', '.join(self.known) or 'none'}."
        return f"no plugin '{self.name}' is registered under '{self.group}'. {hint}"


class BuildError(FleetError):
    """One model could not be turned into a repository entry."""

    def __init__(self, model: str, cause: str, hint: str = "") -> None:
        super().__init__(model, cause, hint)
        self.model, self.cause, self.hint = model, cause, hint

    def __str__(self) -> str:
        text = f"{self.model}: {self.cause.rstrip('.')}."
        return f"{text} {self.hint}" if self.hint else text


class SourceUnavailable(BuildError):
    """The model's weights or code could not be had."""


class ExportFailed(BuildError):
    """The exporter refused the model, or crashed on it."""


class ParityFailed(BuildError):
    """The artifact does not compute what the original computes."""


class VariantFailed(BuildError):
    """One variant of a model could not be made, or not on this machine."""


class MetricFailed(BuildError):
    """The artifact does not reach the figure that the fleet file asks for."""


class ProofFailed(BuildError):
    """A real tritonserver would not load the model, or not answer with it."""


class InvalidModelConfig(BuildError):
    """A config.pbtxt that Triton would refuse, or that contradicts the artifact."""


class PublishFailed(BuildError):
    """The finished model could not be moved into the repository."""


class ServerError(FleetError):
    """A tritonserver did not do what it was asked."""


class ServerUnreachable(ServerError):
    """Nobody answers at the server's address."""

    def __init__(self, server: str, address: str, sent: bool = True) -> None:
        super().__init__(server, address, sent)
        self.server, self.address = server, address
        self.sent = sent
        """Whether the server may have got what it was asked; if not, it is safe to ask again."""

    def __str__(self) -> str:
        return (
            f"server '{self.server}' does not answer at {self.address}. "
            "It may be restarting: see its log."
        )


class ServerTimeout(ServerError):
    """The server took longer than it was given."""

    def __init__(self, server: str, operation: str, timeout_s: float) -> None:
        super().__init__(server, operation, timeout_s)
        self.server, self.operation, self.timeout_s = server, operation, timeout_s

    def __str__(self) -> str:
        return (
            f"server '{self.server}' did not finish '{self.operation}' within "
            f"{self.timeout_s:g} s. Raise the timeout, or look into its log."
        )


class LoadFailed(ServerError):
    """Triton refused to load a model; the others keep serving."""

    def __init__(self, model: str, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(model, reason, retry_after_s)
        self.model, self.reason, self.retry_after_s = model, reason, retry_after_s

    def __str__(self) -> str:
        after = f" It is tried again in {self.retry_after_s:.0f} s." if self.retry_after_s else ""
        return (
            f"{self.model} failed to load: {self.reason.strip().rstrip('.;')}.{after} "
            f"Rebuild it with 'tritonfleet build {self.model} --force' if its files are damaged."
        )


class UnloadFailed(ServerError):
    """Triton did not confirm that a model left."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(model, reason)
        self.model, self.reason = model, reason

    def __str__(self) -> str:
        return (
            f"{self.model} failed to unload: {self.reason}. Its memory stays charged until it does."
        )


class ResidencyError(FleetError):
    """A model cannot be in memory, now or ever."""


class ModelNotFound(ResidencyError):
    """A name that the fleet does not have."""

    def __init__(self, model: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(model, known)
        self.model, self.known = model, known

    def __str__(self) -> str:
        guess = did_you_mean(self.model, self.known)
        hint = f"Did you mean '{guess}'?" if guess else "'tritonfleet ls' lists the models."
        return f"Request for unknown model: '{self.model}' is not in the fleet. {hint}"


class VersionNotFound(ResidencyError):
    """A version of a model that nobody has published."""

    def __init__(self, model: str, version: str, known: tuple[int, ...] = ()) -> None:
        super().__init__(model, version, known)
        self.model, self.version, self.known = model, version, known

    def __str__(self) -> str:
        known = ", ".join(map(str, self.known)) or "none"
        return (
            f"Request for unknown model: '{self.model}' version {self.version} is not found. "
            f"Published versions: {known}."
        )


class ModelTooLarge(ResidencyError):
    """A model that no server could hold even when empty."""

    def __init__(self, model: str, footprint: int, largest: int) -> None:
        super().__init__(model, footprint, largest)
        self.model, self.footprint, self.largest = model, footprint, largest

    def __str__(self) -> str:
        return (
            f"{self.model} needs {format_bytes(self.footprint)}; the largest server has "
            f"{format_bytes(self.largest)} for it. Raise its capacity, unpin a model, "
            "or export a smaller format."
        )


class FleetSaturated(ResidencyError):
    """No room could be made in time; the same request may succeed later."""

    def __init__(
        self,
        model: str,
        waited_s: float,
        retry_after_s: float,
        cause: str = "every other model is in use, pinned or just loaded, and the memory is full",
    ) -> None:
        super().__init__(model, waited_s, retry_after_s, cause)
        self.model, self.waited_s, self.retry_after_s = model, waited_s, retry_after_s
        self.cause = cause

    def __str__(self) -> str:
        return (
            f"{self.model} could not be had within {self.waited_s:.1f} s: {self.cause}. "
            f"Retry in {self.retry_after_s:.0f} s."
        )


class QueueFull(ResidencyError):
    """A model at its limits; the same request may succeed as soon as others are done."""

    def __init__(self, model: str, cause: str, retry_after_s: float = 1.0) -> None:
        super().__init__(model, cause, retry_after_s)
        self.model, self.cause, self.retry_after_s = model, cause, retry_after_s

    def __str__(self) -> str:
        return f"{self.model}: {self.cause}. Retry in {self.retry_after_s:.0f} s."


class TooMuchHeld(ResidencyError):
    """No memory is left for one more request that waits for its model."""

    def __init__(self, model: str, size: int, limit: int, retry_after_s: float = 1.0) -> None:
        super().__init__(model, size, limit, retry_after_s)
        self.model, self.size, self.limit = model, size, limit
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return (
            f"{self.model}: no room to hold a request of {format_bytes(self.size)} beside those "
            f"that wait already, {format_bytes(self.limit)} in all. "
            f"Retry in {self.retry_after_s:.0f} s, or raise held_request_bytes."
        )


class DeadlineExceeded(ResidencyError):
    """A request that waited for its model as long as its caller would."""

    def __init__(self, model: str, deadline_s: float) -> None:
        super().__init__(model, deadline_s)
        self.model, self.deadline_s = model, deadline_s

    def __str__(self) -> str:
        return (
            f"{self.model} could not answer within the {self.deadline_s:.3g} s that the request "
            "gives it. Allow more: a model that is not in memory must be loaded first."
        )


class NotAllowed(ResidencyError):
    """A caller that may not have what it asks for."""

    def __init__(self, tenant: str | None, operation: str, hint: str = "") -> None:
        super().__init__(tenant, operation, hint)
        self.tenant, self.operation, self.hint = tenant, operation, hint

    def __str__(self) -> str:
        who = f"tenant '{self.tenant}'" if self.tenant else "a caller without credentials"
        hint = self.hint or "The fleet file says who may, under 'access'."
        return f"{who} may not {self.operation}. {hint}"


class SharedMemoryRefused(ResidencyError):
    """A registration of shared memory that could not mean what its caller thinks."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause

    def __str__(self) -> str:
        return f"shared memory cannot be used here: {self.cause}. Send the tensors in the request."


class PinRefused(ResidencyError):
    """A pin, or an unload of a pinned model, that would break a promise already made."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(model, reason)
        self.model, self.reason = model, reason

    def __str__(self) -> str:
        return f"{self.model}: {self.reason}"


class RolloutRefused(ResidencyError):
    """A change of versions that cannot be made as things stand."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(model, reason)
        self.model, self.reason = model, reason

    def __str__(self) -> str:
        return f"{self.model}: {self.reason}"


class LaunchError(FleetError):
    """A server could not be started or has died."""


class LauncherUnavailable(LaunchError):
    """The machine lacks what the launcher needs."""

    def __init__(self, launcher: str, cause: str, hint: str) -> None:
        super().__init__(launcher, cause, hint)
        self.launcher, self.cause, self.hint = launcher, cause, hint

    def __str__(self) -> str:
        return f"launcher '{self.launcher}' cannot run here: {self.cause.rstrip('.')}. {self.hint}"


class ServerExited(LaunchError):
    """The server's process ended by itself."""

    def __init__(self, server: str, status: int, log_tail: str, log_file: str = "") -> None:
        super().__init__(server, status, log_tail, log_file)
        self.server, self.status, self.log_tail, self.log_file = server, status, log_tail, log_file

    def __str__(self) -> str:
        where = f" The whole log is in {self.log_file}." if self.log_file else ""
        return (
            f"server '{self.server}' exited with status {self.status}.{where} "
            f"Its last lines:\n{self.log_tail}"
        )


class PortTaken(LaunchError):
    """Another process listens where this one was told to."""

    def __init__(self, address: str, port: int, setting: str) -> None:
        super().__init__(address, port, setting)
        self.address, self.port, self.setting = address, port, setting

    def __str__(self) -> str:
        return (
            f"port {self.port} on {self.address} is taken by another process. "
            f"Stop it, or choose another with {self.setting}."
        )


class EngineUnavailable(LaunchError):
    """No container engine that would talk to us."""

    def __init__(self, engine: str, cause: str, hint: str) -> None:
        super().__init__(engine, cause, hint)
        self.engine, self.cause, self.hint = engine, cause, hint

    def __str__(self) -> str:
        return f"no container engine at {self.engine}: {self.cause.rstrip('.')}. {self.hint}"


class ImageMissing(LaunchError):
    """An image that is not here and cannot be fetched."""

    def __init__(self, image: str, cause: str, hint: str) -> None:
        super().__init__(image, cause, hint)
        self.image, self.cause, self.hint = image, cause, hint

    def __str__(self) -> str:
        return f"no image {self.image}: {self.cause.rstrip('.')}. {self.hint}"


class ContainerFailed(LaunchError):
    """A container that the engine would not start, or that ended before it served."""

    def __init__(self, container: str, cause: str, hint: str, log_tail: str = "") -> None:
        super().__init__(container, cause, hint, log_tail)
        self.container, self.cause, self.hint, self.log_tail = container, cause, hint, log_tail

    def __str__(self) -> str:
        tail = f" Its last lines:\n{self.log_tail}" if self.log_tail else ""
        return f"container '{self.container}': {self.cause.rstrip('.')}. {self.hint}{tail}"


class EngineMismatch(LaunchError):
    """TensorRT engines of the repository that an image cannot serve, all of them."""

    def __init__(self, image: str, misfits: tuple[str, ...], hint: str) -> None:
        super().__init__(image, misfits, hint)
        self.image, self.misfits, self.hint = image, misfits, hint

    def __str__(self) -> str:
        count = len(self.misfits)
        lines = "\n".join(f"  {misfit}" for misfit in self.misfits)
        return (
            f"image {self.image} cannot serve {count} engine{'s' if count != 1 else ''} of the "
            f"repository:\n{lines}\n{self.hint}"
        )


class EnvoyMissing(LaunchError):
    """No Envoy that could carry requests."""

    def __init__(self, program: str, cause: str, hint: str) -> None:
        super().__init__(program, cause, hint)
        self.program, self.cause, self.hint = program, cause, hint

    def __str__(self) -> str:
        return f"no usable Envoy, {self.program}: {self.cause.rstrip('.')}. {self.hint}"


class ConfigRejected(LaunchError):
    """Envoy refuses a configuration that was generated; the one before stays in force."""

    def __init__(self, program: str, cause: str) -> None:
        super().__init__(program, cause)
        self.program, self.cause = program, cause

    def __str__(self) -> str:
        return (
            f"{self.program} rejects the generated configuration: {self.cause.strip()}\n"
            "What was in force stays so. Look for the value it names in the fleet file; if it is "
            "not from there, this is a mistake of ours, or an Envoy of another version."
        )


class BrainFailed(LaunchError):
    """The process that decides what is in memory could not begin; it says why itself."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause

    def __str__(self) -> str:
        return self.cause


class PerfError(FleetError):
    """A measurement that cannot be trusted, or could not be taken."""


class AnalyzerMissing(PerfError):
    """No perf_analyzer that runs on this machine."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause

    def __str__(self) -> str:
        return f"no usable perf_analyzer: {self.cause}. 'make bench' installs one."


class AnalyzerFailed(PerfError):
    """perf_analyzer ended with an error."""

    def __init__(self, scenario: str, status: int, output: str) -> None:
        super().__init__(scenario, status, output)
        self.scenario, self.status, self.output = scenario, status, output

    def __str__(self) -> str:
        return f"perf_analyzer failed on {self.scenario} with status {self.status}:\n{self.output}"


class Unstable(PerfError):
    """Measurements that never settled, or that the server's own counters contradict."""

    def __init__(self, scenario: str, cause: str) -> None:
        super().__init__(scenario, cause)
        self.scenario, self.cause = scenario, cause

    def __str__(self) -> str:
        return f"{self.scenario}: {self.cause}. Measure again on a quieter machine."
