"""Where every request that Envoy does not send directly asks for a model, whatever it speaks.

The desk knows who may call what, how much may be held, how long a wait may last, and which model
answers when the one that was asked for cannot. It knows neither HTTP nor gRPC.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field

from tritonfleet.controller.controller import Controller, Lease
from tritonfleet.controller.tally import Histogram
from tritonfleet.errors import (
    DeadlineExceeded,
    FleetError,
    FleetSaturated,
    LoadFailed,
    ModelNotFound,
    ModelTooLarge,
    NotAllowed,
    QueueFull,
    ServerUnreachable,
    TooMuchHeld,
)
from tritonfleet.settings import Settings
from tritonfleet.spec.fleet import FleetSpec
from tritonfleet.spec.traffic import LatencyClass, TenantSpec

REQUEST_BYTES = 16 * 2**10
"""What a request takes beside its body, more or less: so that empty ones are bounded too."""
MIRROR_PATIENCE_S = 0.05
"""A copy of a request waits for nobody."""
TICK_S = 0.001
"""Timers are no finer."""
UNAVAILABLE = (FleetSaturated, QueueFull, LoadFailed, ModelTooLarge, ServerUnreachable)
"""The errors of a model for which another one may answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the desk must know of a request."""

    model: str
    version: str = ""
    tenant: str | None = None
    latency_class: LatencyClass | None = None
    """What the caller says of itself, if it says anything."""
    deadline_s: float | None = None
    """Seconds from now, the least that the caller names anywhere; None where it names none."""
    spent_s: float = 0.0
    """Seconds that it has been under way already, for one that is asked anew."""
    size_bytes: int = 0
    """Of what the caller holds in memory for it, unless ``Desk.holding`` counts that."""
    mirrored: bool = False
    """Whether it is a copy, whose answer nobody sees."""
    overloaded: bool = False
    """Whether it has been refused or missed its model already: the second attempt."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Which model answers, where, and what to tell the client."""

    model: str
    server: str
    version: str
    """What the request must name to Triton; empty for none."""
    cold: bool
    waited_s: float
    remaining_s: float | None
    """How long the answer may still take; None for as long as it likes."""
    fallback: str | None = None
    """The model that answers in place of the one that was asked for."""
    proved: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)
    """To be called once the model has answered well."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the fleet file says about requests."""

    models: tuple[str, ...]
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mirrors: Mapping[str, str] = field(default_factory=dict)
    timeouts_s: Mapping[str, float] = field(default_factory=dict)
    """From arrival to answer, by model."""
    batch_models: frozenset[str] = frozenset()
    tenants: Mapping[str, TenantSpec] = field(default_factory=dict)
    queue_timeout_s: float = 60.0
    held_request_bytes: int = 512 * 2**20

    @classmethod
    def of(cls, spec: FleetSpec, settings: Settings) -> Rules:
        """The rules of a fleet file."""
        models = spec.models
        timeouts = {name: spec.limits(name).timeout_s for name in models}
        return cls(
            models=tuple(models),
            fallbacks={name: model.fallback for name, model in models.items() if model.fallback},
            mirrors={name: model.mirror.model for name, model in models.items() if model.mirror},
            timeouts_s={name: limit for name, limit in timeouts.items() if limit is not None},
            batch_models=frozenset(
                n for n, m in models.items() if m.labels.latency_class == "batch"
            ),
            tenants=spec.access.tenants,
            queue_timeout_s=settings.queue_timeout_s,
            held_request_bytes=settings.held_request_bytes,
        )


@dataclass(slots=True)
class Counters:
    """What has come to the desk: requests that Envoy sent directly never do."""

    requests: int = 0
    held: int = 0
    held_bytes: int = 0


WAIT_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""From a load of a small model by the native backend to the usual limit of a wait."""


@dataclass(slots=True)
class DeskTally:
    """What has become of the requests that came to the desk."""

    cold_starts: Counter[str] = field(default_factory=Counter)
    """Requests that found their model not in memory and got it, by the model that answers."""
    cold_waits: Histogram = field(default_factory=lambda: Histogram(WAIT_BOUNDS_S))
    refusals: Counter[str] = field(default_factory=Counter)
    """By the name of the error."""

    def admitted(self, admission: Admission) -> None:
        """One that got a model."""
        if admission.cold:
            self.cold_starts[admission.model] += 1
            self.cold_waits.add(admission.waited_s)

    @contextlib.contextmanager
    def counting_refusals(self) -> Iterator[None]:
        """Counts the error that ends the block, if one of ours does."""
        try:
            yield
        except FleetError as error:
            self.refusals[type(error).__name__] += 1
            raise


@dataclass(frozen=True, slots=True)
class _Clock:
    """How long one request may take, and how long it has taken."""

    now: Callable[[], float]
    started: float
    deadline_s: float | None
    patience_s: float

    def spent_s(self) -> float:
        return self.now() - self.started

    def remaining_s(self) -> float | None:
        """Until the answer is due."""
        return None if self.deadline_s is None else self.deadline_s - self.spent_s()

    def share_s(self, candidates: int) -> float:
        """How long the next of so many models may be waited for."""
        return max(TICK_S, self.patience_s - self.spent_s()) / candidates


class Desk:
    """Admits requests to models, one lease for each."""

    def __init__(self, controller: Controller, rules: Rules) -> None:
        self._controller, self.rules = controller, rules
        self.counters, self.tally = Counters(), DeskTally()

    # -- who may what ------------------------------------------------------------------------

    def may_call(self, tenant: str | None, model: str) -> bool:
        """Whether a caller may use a model; everybody may where no tenants are declared."""
        if not self.rules.tenants:
            return True
        declared = self.rules.tenants.get(tenant or "")
        patterns = declared.models if declared else ()
        return any(fnmatch.fnmatchcase(model, pattern) for pattern in patterns)

    def may_manage(self, tenant: str | None) -> bool:
        """Whether a caller may load, unload and change settings."""
        declared = self.rules.tenants.get(tenant or "")
        return not self.rules.tenants or bool(declared and declared.manage)

    def visible(self, tenant: str | None) -> tuple[str, ...]:
        """The models that a caller may know of."""
        return tuple(model for model in self.rules.models if self.may_call(tenant, model))

    def check_model(self, tenant: str | None, model: str) -> None:
        """Raises ModelNotFound or NotAllowed for a model that the caller cannot have."""
        if model not in self.rules.models:
            raise ModelNotFound(model, self.visible(tenant))
        if not self.may_call(tenant, model):
            raise NotAllowed(tenant, f"call {model}")

    def check_manage(self, tenant: str | None, operation: str) -> None:
        """Raises NotAllowed unless the caller may manage the fleet."""
        if not self.may_manage(tenant):
            raise NotAllowed(tenant, operation)

    def has_alternative(self, model: str) -> bool:
        """Whether another model may answer in place of one that refused, and so has run nothing."""
        # What an ensemble passes on may come from its last step.
        return model in self.rules.fallbacks and not self._controller.ledger.members(model)

    # -- admission ---------------------------------------------------------------------------

    def admit(self, asked: Asked) -> AbstractAsyncContextManager[Admission]:
        """Holds a model in memory for one request, loading it first if need be.

        Raises ModelNotFound or NotAllowed at once, QueueFull or TooMuchHeld where too many wait,
        DeadlineExceeded past the caller's own deadline, else the error of the model that was asked
        for when neither it nor a fallback can answer.
        """
        return self._mirror(asked) if asked.mirrored else self._admit(asked)

    @contextlib.asynccontextmanager
    async def _admit(self, asked: Asked) -> AsyncIterator[Admission]:
        async with AsyncExitStack() as stack:
            with self.tally.counting_refusals():
                self.check_model(asked.tenant, asked.model)
                if asked.deadline_s is not None and asked.deadline_s <= asked.spent_s:
                    raise DeadlineExceeded(asked.model, asked.deadline_s)
                clock = self._clock(asked)
                stack.enter_context(self._counted(asked))
                admission = await self._first_available(stack, asked, clock)
            self.tally.admitted(admission)
            yield admission

    @contextlib.asynccontextmanager
    async def _mirror(self, asked: Asked) -> AsyncIterator[Admission]:
        """Copies of requests neither load a model nor wait for one."""
        model = self.rules.mirrors.get(asked.model)
        if model is None:
            raise ModelNotFound(asked.model)
        if self._controller.ledger.ready_on(model) is None:
            raise FleetSaturated(model, 0.0, 1.0, "it is not in memory, and a copy loads nothing")
        with self._counted(asked):
            lease_of = self._controller.lease(model, MIRROR_PATIENCE_S, batch=True)
            async with lease_of as lease:
                yield self._admitted(asked, lease, self._clock(asked))

    @contextlib.contextmanager
    def holding(self, model: str, size: int) -> Iterator[None]:
        """Charges memory that a request takes while it waits; TooMuchHeld where there is none."""
        counters, limit = self.counters, self.rules.held_request_bytes
        if counters.held_bytes + size > limit:
            raise TooMuchHeld(model, size, limit)
        counters.held_bytes += size
        try:
            yield
        finally:
            counters.held_bytes -= size

    @contextlib.contextmanager
    def _counted(self, asked: Asked) -> Iterator[None]:
        """Counts a request, and what it takes, for as long as it lasts."""
        self.counters.requests += 1
        with self.holding(asked.model, asked.size_bytes + REQUEST_BYTES):
            self.counters.held += 1
            try:
                yield
            finally:
                self.counters.held -= 1

    def _clock(self, asked: Asked) -> _Clock:
        limits = (asked.deadline_s, self.rules.timeouts_s.get(asked.model))
        deadline_s = min((limit for limit in limits if limit is not None), default=None)
        queue_s = self.rules.queue_timeout_s
        patience_s = queue_s if deadline_s is None else min(deadline_s, queue_s)
        now = self._controller.now
        return _Clock(now, now() - asked.spent_s, deadline_s, patience_s)

    async def _first_available(
        self, stack: AsyncExitStack, asked: Asked, clock: _Clock
    ) -> Admission:
        """The first model of the chain that can be had; the error of the asked one if none can."""
        chain, refusal = self._chain(asked), self._refused_already(asked)
        for position, model in enumerate(chain):
            try:
                lease = await self._lease(stack, asked, model, clock.share_s(len(chain) - position))
            except UNAVAILABLE as error:
                refusal = refusal or error
                continue
            return self._admitted(asked, lease, clock)
        assert refusal is not None, "the chain is empty only after a refusal"
        raise self._told(asked, refusal, clock)

    def _chain(self, asked: Asked) -> tuple[str, ...]:
        """The models that may answer, in order; an explicit version is only the asked one's."""
        if asked.version:
            return (asked.model,)
        others = self.rules.fallbacks.get(asked.model, ())
        return others if self._refused_already(asked) else (asked.model, *others)

    def _refused_already(self, asked: Asked) -> FleetError | None:
        """The error of a model in memory that has refused the request, if another may answer."""
        ready = self._controller.ledger.ready_on(asked.model) is not None
        if asked.overloaded and ready and not asked.version and asked.model in self.rules.fallbacks:
            return QueueFull(asked.model, "it is at its limits, and nothing answers in its place")
        return None

    async def _lease(
        self, stack: AsyncExitStack, asked: Asked, model: str, timeout_s: float
    ) -> Lease:
        batch = self._class_of(asked) == "batch"
        version = asked.version if model == asked.model else ""
        return await stack.enter_async_context(
            self._controller.lease(model, timeout_s, batch=batch, version=version)
        )

    def _class_of(self, asked: Asked) -> LatencyClass:
        """As Envoy has it: a batch tenant cannot call itself interactive, all others have a say."""
        declared = self.rules.tenants.get(asked.tenant or "")
        if declared is not None and declared.latency_class == "batch":
            return "batch"
        own: LatencyClass = "batch" if asked.model in self.rules.batch_models else "interactive"
        return asked.latency_class or own

    def _admitted(self, asked: Asked, lease: Lease, clock: _Clock) -> Admission:
        remaining_s = clock.remaining_s()
        if remaining_s is not None and remaining_s <= 0:
            late = FleetSaturated(asked.model, clock.spent_s(), 1.0, "its timeout_s is over")
            raise self._told(asked, late, clock)
        return Admission(
            model=lease.model,
            server=lease.server,
            version=lease.version,
            cold=lease.cold,
            waited_s=clock.spent_s(),
            remaining_s=remaining_s,
            fallback=lease.model if lease.model != asked.model and not asked.mirrored else None,
            proved=lease.proved,
        )

    def _told(self, asked: Asked, refusal: FleetError, clock: _Clock) -> FleetError:
        """What a refusal is to a caller who has set a deadline of its own."""
        own = asked.deadline_s
        if own is None or not isinstance(refusal, FleetSaturated):
            return refusal
        return DeadlineExceeded(asked.model, own) if clock.spent_s() >= own - TICK_S else refusal
