"""Which failures are answered by trying again, and where.

Only what has surely not been run: a connection that was never made, and an answer in which Triton
says that it does not hold the model. The body is still there, because requests are buffered.
"""

from __future__ import annotations

import re

from tritonfleet.gateway.envoy.clusters import Protocol
from tritonfleet.gateway.envoy.plan import ABSENT_HEADER, OVERLOADED_HEADER
from tritonfleet.gateway.envoy.typed import Json, extension, seconds

_UNSENT = "connect-failure,refused-stream,reset-before-request"
_PREVIOUS = "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
_ABSENT = (
    r"Request for unknown model: '{name}' "
    r"(is not found|has no available versions|version [0-9]+ is not at ready state)"
)
_TRIES = 80
"""Some twenty seconds: on a busy machine the activator is not back in less than ten."""
_FULL = "Exceeds maximum queue size"


def at_the_activator(protocol: Protocol, model: str) -> Json:
    """For requests that go straight to a tritonserver: the next try is at the activator."""
    return {**_policy(retriable=[_absent(protocol, model)]), **_elsewhere()}


def until_it_is_back() -> Json:
    """For requests that go to the activator: it may be restarting."""
    return _policy()


def at_the_fallback(protocol: Protocol) -> Json:
    """For requests of models that others stand in for: whatever was refused for want of room."""
    return {**_policy(retriable=_overloaded(protocol)), **_elsewhere()}


def _policy(retriable: list[Json] | None = None) -> Json:
    policy: Json = {
        "retry_on": _UNSENT,
        "num_retries": _TRIES,
        "retry_back_off": {"base_interval": seconds(0.005), "max_interval": seconds(0.5)},
    }
    if retriable:
        policy |= {"retry_on": _UNSENT + ",retriable-headers", "retriable_headers": retriable}
    return policy


def _elsewhere() -> Json:
    previous = extension(
        "envoy.retry_priorities.previous_priorities", _PREVIOUS, update_frequency=1
    )
    return {"retry_priority": previous}


def _absent(protocol: Protocol, model: str) -> Json:
    if protocol == "http":
        # Read from the answer's body, and put there with the name that it gives.
        return {"name": ABSENT_HEADER, "string_match": {"exact": model}}
    message = {"regex": _ABSENT.format(name=re.escape(model))}
    return {"name": "grpc-message", "string_match": {"safe_regex": message}}


def _overloaded(protocol: Protocol) -> list[Json]:
    refused = {"name": OVERLOADED_HEADER, "present_match": True}
    if protocol == "http":
        return [refused]
    return [refused, {"name": "grpc-message", "string_match": {"contains": _FULL}}]
