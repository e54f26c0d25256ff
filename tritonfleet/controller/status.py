"""What a fleet looks like from outside: servers, models, and why each is where it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritonfleet.controller.ledger import Decision, Ledger, Phase, ResidentView
from tritonfleet.controller.versions import parts_of

STATE = {
    Phase.RESERVED: "LOADING",
    Phase.LOADING: "LOADING",
    Phase.READY: "READY",
    Phase.DRAINING: "UNLOADING",
    Phase.UNLOADING: "UNLOADING",
}


def fleet_status(
    ledger: Ledger,
    now: float,
    descriptions: Mapping[str, str],
    up: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """Servers with their sums in bytes, and every model with its state and the reason for it.

    ``up`` holds the addresses of each server that runs.
    """
    residents = {view.model: view for view in ledger.residents(now)}
    return {
        "servers": [
            {
                "name": server.name,
                "capacity_bytes": server.capacity + server.margin,
                "budget_bytes": server.capacity,
                "occupied_bytes": ledger.occupied(server.name),
                "promised_bytes": ledger.promised(server.name),
                "up": server.name in up,
                **up.get(server.name, {}),
            }
            for server in ledger.servers
        ],
        "models": [
            {
                **_model(ledger, name, residents.get(name), now),
                "description": descriptions.get(name, ""),
            }
            for name in ledger.names
        ],
    }


def _model(ledger: Ledger, name: str, view: ResidentView | None, now: float) -> dict[str, Any]:
    return {
        "name": name,
        "state": STATE[view.phase] if view else "UNAVAILABLE",
        "server": view.server if view else None,
        "footprint_bytes": view.footprint if view else ledger.footprint(name),
        "priority": ledger.priority(name),
        "pinned": ledger.is_pinned(name),
        "in_use": view.leases if view else 0,
        "under_way": view.in_flight if view else 0,
        "waiting": ledger.waiting(name),
        "last_used_s_ago": round(now - view.last_used, 1) if view else None,
        "versions_beside": [
            {
                "version": parts_of(entry)[1],
                "state": STATE[beside] if (beside := ledger.phase(entry)) else "UNAVAILABLE",
            }
            for entry in ledger.versions_of(name)
        ],
        "reason": _reason(ledger, name, view, now),
    }


def _reason(ledger: Ledger, name: str, view: ResidentView | None, now: float) -> str:
    if view is None:
        return _why_absent(ledger, name, now)
    if view.phase is Phase.RESERVED:
        return "room is reserved; waits for victims to leave or for members to load"
    if view.phase is not Phase.READY:
        return {Phase.LOADING: "loading", Phase.DRAINING: "draining"}.get(view.phase, "unloading")
    if view.stays_because:
        return view.stays_because
    return _why_kept(ledger, name, now)


def _why_absent(ledger: Ledger, name: str, now: float) -> str:
    failure = ledger.failure(name, now)
    if failure is not None:
        return f"failed to load: {failure.reason}"
    for decision in reversed(ledger.decisions):
        if name in decision.evicted:
            if decision.model in ("", name):
                return f"left {_ago(decision, now)}: {decision.reason}"
            return f"evicted {_ago(decision, now)} for {decision.model}: {decision.reason}"
    return "not asked for yet"


def _why_kept(ledger: Ledger, name: str, now: float) -> str:
    for decision in reversed(ledger.decisions):
        reason = dict(decision.kept).get(name)
        if reason:
            return f"stayed {_ago(decision, now)} when {_victims(decision)} left: {reason}"
    return "idle; nobody has needed its room"


def _victims(decision: Decision) -> str:
    first, *others = decision.evicted
    return f"{first} and {len(others)} more" if others else first


def _ago(decision: Decision, now: float) -> str:
    return f"{now - decision.at:.0f} s ago"


def explain(ledger: Ledger, model: str, now: float) -> list[dict[str, Any]]:
    """Every decision still remembered that concerns a model, newest first."""
    return [
        {
            "seconds_ago": round(now - decision.at, 1),
            "model": decision.model,
            "server": decision.server,
            "evicted": list(decision.evicted),
            "reason": decision.reason,
            "kept": dict(decision.kept),
        }
        for decision in reversed(ledger.decisions)
        if model == decision.model or model in decision.evicted or model in dict(decision.kept)
    ]
