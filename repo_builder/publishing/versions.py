"""Which of a model's versions stay when one is published.

A rule over facts, and pure: whatever a running server may be about to open is not taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

from tritonfleet.server.layout import ManifestEntry

GRACE_S = 300.0
"""How long a superseded version stays whatever ``keep_versions`` says.

A server decides for a version, and opens its files up to minutes later.
"""


def versions_to_keep(
    new: int,
    present: Iterable[int],
    keep: int,
    policy: Any,
    *,
    read_now: Iterable[int] = (),
    superseded_s: Mapping[int, float] | None = None,
    fits: Callable[[int], bool] = lambda _: True,
) -> tuple[int, ...]:
    """The newest few, those the policy names, those served until now and those of a moment ago.

    Of these, the ones that the new ``policy`` would serve must fit its configuration.
    """
    versions = sorted({*present, new})
    young = {v for v, age_s in (superseded_s or {}).items() if age_s < GRACE_S}
    wanted = {new, *versions[-keep:], *named_versions(policy), *read_now, *young}
    kept = wanted & set(versions)
    # Without one, the next older version becomes one of the latest: so it is asked again.
    while misfits := {v for v in served_versions(policy, kept) if v != new and not fits(v)}:
        kept -= misfits
    return tuple(sorted(kept))


def named_versions(policy: Any) -> tuple[int, ...]:
    """The versions that a ``ModelVersionPolicy`` asks for by number."""
    return tuple(policy.specific.versions)


def served_versions(policy: Any, versions: Iterable[int]) -> tuple[int, ...]:
    """Those of the versions on disk that a server would load under a ``ModelVersionPolicy``."""
    ascending = tuple(sorted(versions))
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return ascending
    if choice == "specific":
        return tuple(version for version in ascending if version in policy.specific.versions)
    return ascending[-(policy.latest.num_versions or 1) :]


def superseded_s(entry: ManifestEntry | None, now: datetime) -> dict[int, float]:
    """For how long each earlier version has not been the newest, as far as the manifest tells."""
    if entry is None:
        return {}
    built = {number: each.entry.get("built_at") for number, each in entry.earlier.items()}
    built[entry.version] = entry.built_at
    numbers = sorted(built)
    ages = {number: _age_s(built[after], now) for number, after in pairwise(numbers)}
    return {number: age for number, age in ages.items() if age is not None}


def _age_s(built_at: Any, now: datetime) -> float | None:
    try:
        moment = datetime.fromisoformat(built_at)
    except (TypeError, ValueError):
        return None
    # A time without a zone was written by hand.
    aware = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return (now - aware).total_seconds()
