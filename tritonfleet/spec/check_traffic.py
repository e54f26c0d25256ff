"""What types alone cannot tell about callers, limits and other models that answer."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from tritonfleet.errors import did_you_mean
from tritonfleet.spec.check_serving import Finding, Location
from tritonfleet.spec.fleet import FleetSpec
from tritonfleet.spec.traffic import AccessSpec, JwtSpec, LimitsSpec, RateSpec

_SLOWEST_PER_S, _FASTEST_PER_S = 1 / 86_400, 1_000_000
_LARGEST_BURST = 1_000_000


def check_traffic(fleet: FleetSpec, model_names: frozenset[str]) -> Iterator[Finding]:
    """All findings; ``model_names`` also holds the models that did not validate."""
    yield from _check_fallbacks(fleet, model_names)
    yield from _check_mirrors(fleet, model_names)
    yield from _check_limits(fleet)
    yield from _check_access(fleet.access, model_names)


# -- other models ------------------------------------------------------------------------------


def _check_fallbacks(fleet: FleetSpec, model_names: frozenset[str]) -> Iterator[Finding]:
    fallbacks = {name: model.fallback for name, model in fleet.models.items()}
    for name, chain in fallbacks.items():
        at: Location = ("models", name, "fallback")
        for index, other in enumerate(chain):
            yield from _check_other((*at, index), name, other, model_names)
            if other in chain[:index]:
                yield (*at, index), f"'{other}' is named twice", "name each once"
        cycle = _cycle(name, fallbacks)
        if cycle:
            yield at, f"the fallbacks lead in a circle: {' -> '.join(cycle)}", "drop one"


def _check_mirrors(fleet: FleetSpec, model_names: frozenset[str]) -> Iterator[Finding]:
    for name, model in fleet.models.items():
        if model.mirror:
            at = ("models", name, "mirror", "model")
            yield from _check_other(at, name, model.mirror.model, model_names)


def _check_other(
    at: Location, name: str, other: str, model_names: frozenset[str]
) -> Iterator[Finding]:
    if other == name:
        yield at, f"'{name}' names itself", "name another model"
    elif other not in model_names:
        yield at, f"there is no model '{other}'", _suggest(other, model_names)


def _cycle(start: str, fallbacks: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """A way through more than one model back to the first."""
    stack: list[tuple[str, ...]] = [(start,)]
    seen: set[str] = set()
    while stack:
        path = stack.pop()
        for other in fallbacks.get(path[-1], ()):
            if other == start and len(path) > 1:
                return (*path, other)
            if other not in seen and other != start:
                seen.add(other)
                stack.append((*path, other))
    return None


# -- limits ------------------------------------------------------------------------------------


def _check_limits(fleet: FleetSpec) -> Iterator[Finding]:
    yield from _check_rate(("defaults", "limits", "rate"), fleet.defaults.limits.rate)
    for name, model in fleet.models.items():
        at = ("models", name, "limits")
        yield from _check_rate((*at, "rate"), model.limits.rate)
        yield from _check_batch(at, fleet.limits(name))


def _check_batch(at: Location, limits: LimitsSpec) -> Iterator[Finding]:
    batch, most = limits.batch_concurrency, limits.max_concurrency
    if batch is None:
        return
    if most is None:
        hint = "give max_concurrency too"
        yield (*at, "batch_concurrency"), "it is a share of max_concurrency, which is not set", hint
    elif batch > most:
        message = f"{batch} is above max_concurrency {most}"
        yield (*at, "batch_concurrency"), message, "lower it"


def _check_rate(at: Location, rate: RateSpec | None) -> Iterator[Finding]:
    if rate is None:
        return
    if not _SLOWEST_PER_S <= rate.requests_per_s <= _FASTEST_PER_S:
        message = f"{rate.requests_per_s:g} is not between one a day and a million a second"
        yield (*at, "requests_per_s"), message, "leave the rate out where there is none"
    if rate.burst is not None and rate.burst > _LARGEST_BURST:
        yield (*at, "burst"), f"{rate.burst} is above a million", "lower it"


# -- callers -----------------------------------------------------------------------------------


def _check_access(access: AccessSpec, model_names: frozenset[str]) -> Iterator[Finding]:
    if access.jwt:
        yield from _check_jwt(access.jwt)
        if not access.tenants:
            message = "tokens name tenants, and none is declared: everybody may call"
            yield ("access", "jwt"), message, "declare them under 'access: tenants'"
    for name in access.tenants:
        yield from _check_tenant(access, name, model_names)
    yield from _check_shared_keys(access)


def _check_jwt(jwt: JwtSpec) -> Iterator[Finding]:
    at: Location = ("access", "jwt")
    if (jwt.jwks_file is None) == (jwt.jwks_url is None):
        yield at, "give exactly one of 'jwks_file' and 'jwks_url'", None
    if jwt.jwks_url is not None and not _is_safe(jwt.jwks_url):
        message = "keys that anybody on the way could exchange prove nothing"
        yield (*at, "jwks_url"), message, "use https, or http on this machine"


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname or "", parts.port
    except ValueError:
        return False
    return bool(host) and (
        parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_tenant(access: AccessSpec, name: str, model_names: frozenset[str]) -> Iterator[Finding]:
    at: Location = ("access", "tenants", name)
    tenant = access.tenants[name]
    if not tenant.api_keys and access.jwt is None:
        yield at, f"nothing tells who is '{name}'", "give it api_keys, or declare 'access: jwt'"
    yield from _check_rate((*at, "rate"), tenant.rate)
    for index, pattern in enumerate(tenant.models):
        if not any(fnmatch.fnmatchcase(model, pattern) for model in model_names):
            message = f"no model is called like '{pattern}'"
            yield (*at, "models", index), message, _suggest(pattern, model_names)


def _check_shared_keys(access: AccessSpec) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    for name, tenant in access.tenants.items():
        for index, reference in enumerate(tenant.api_keys):
            owner = owners.setdefault(reference, name)
            if owner != name:
                at = ("access", "tenants", name, "api_keys", index)
                yield at, f"'{owner}' has the same key", "give each its own"


def _suggest(word: str, known: frozenset[str]) -> str | None:
    guess = did_you_mean(word, sorted(known))
    return f"did you mean '{guess}'?" if guess else None
