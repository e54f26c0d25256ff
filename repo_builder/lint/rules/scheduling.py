"""Batching, queues, sequences and the response cache: settings that fight each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from repo_builder.lint.findings import Expected, Finding, Rule
from repo_builder.lint.repository import Subject

BATCHING_WITHOUT_BATCH = Rule(
    "batching-without-batch", "warning", "dynamic_batching that cannot batch"
)
PREFERRED_SIZE = Rule("preferred-batch-size", "error", "a preferred batch beyond the largest")
PRIORITY_LEVELS = Rule("priority-levels", "error", "a priority level that there is not")
PRIORITY_IGNORED = Rule("priority-ignored", "warning", "priorities without priority_levels")
ORDERING = Rule("preserve-ordering", "error", "an order that priorities or delays would break")
QUEUE_DELAY = Rule("queue-delay", "warning", "a queue delay of a second or more")
SEQUENCE_WITHOUT_BATCH = Rule(
    "sequence-without-batch", "warning", "sequences that run one at a time"
)
SLOT_UTILIZATION = Rule("slot-utilization", "error", "a slot utilisation that is no share")
CACHE_REFUSED = Rule("cache-refused", "error", "a response cache where there can be none")
CACHE_STALE = Rule("cache-stale", "info", "a response cache that outlives the model's files")

_LONG_DELAY_MICROSECONDS = 1_000_000


def check(subject: Subject, expected: Expected) -> Iterator[Finding]:
    """Everything about schedulers and the cache."""
    if not subject.parsed:
        return
    config = subject.config
    if config.HasField("dynamic_batching"):
        yield from _dynamic(config)
    if config.HasField("sequence_batching"):
        yield from _sequence(config)
    if config.response_cache.enable:
        yield from _cache(config)


def _dynamic(config: Any) -> Iterator[Finding]:
    batching, place = config.dynamic_batching, "dynamic_batching"
    if config.max_batch_size == 0:
        message = "dynamic_batching does nothing with max_batch_size 0"
        fix = "Set max_batch_size and give the model a batch dimension, or drop it."
        yield BATCHING_WITHOUT_BATCH.found(message, fix, place)
    yield from _preferred(config, batching.preferred_batch_size, place)
    yield from _delay(batching.max_queue_delay_microseconds, place)
    yield from _priorities(batching, place)
    yield from _ordering(batching, place)


def _preferred(config: Any, sizes: Any, place: str) -> Iterator[Finding]:
    for size in sizes:
        if not 0 < size <= config.max_batch_size:
            message = f"preferred_batch_size {size} with max_batch_size {config.max_batch_size}"
            fix = "Keep it within max_batch_size: the server refuses the whole file."
            yield PREFERRED_SIZE.found(message, fix, f"{place}.preferred_batch_size")


def _delay(microseconds: int, place: str) -> Iterator[Finding]:
    if microseconds >= _LONG_DELAY_MICROSECONDS:
        seconds = microseconds / 1_000_000
        message = f"requests may wait {seconds:g} s for others to join their batch"
        fix = "It is in microseconds: write 500 to 20000."
        yield QUEUE_DELAY.found(message, fix, f"{place}.max_queue_delay_microseconds")


def _priorities(batching: Any, place: str) -> Iterator[Finding]:
    levels, default = batching.priority_levels, batching.default_priority_level
    policies = f"{place}.priority_queue_policy"
    if not levels:
        given = "default_priority_level" if default else "priority_queue_policy"
        if default or batching.priority_queue_policy:
            message = f"{given} does nothing without priority_levels"
            yield PRIORITY_IGNORED.found(message, "Give both or neither.", f"{place}.{given}")
        return
    if not 1 <= default <= levels:
        message = f"default_priority_level {default} is not among the {levels} priority_levels"
        where = f"{place}.default_priority_level"
        yield PRIORITY_LEVELS.found(message, "Give one of them; 1 is the first served.", where)
    for level in sorted(batching.priority_queue_policy):
        if not 1 <= level <= levels:
            message = f"priority_queue_policy names level {level} of {levels}"
            yield PRIORITY_LEVELS.found(message, "Raise priority_levels, or drop it.", policies)


def _ordering(batching: Any, place: str) -> Iterator[Finding]:
    if not batching.preserve_ordering:
        return
    delays = [policy for policy in _policies(batching) if policy.timeout_action == policy.DELAY]
    if batching.priority_levels > 1:
        message = f"preserve_ordering with {batching.priority_levels} priority_levels"
        yield ORDERING.found(message, "Keep one of the two.", f"{place}.preserve_ordering")
    if any(policy.default_timeout_microseconds for policy in delays):
        message = "preserve_ordering with a queue policy that delays what timed out"
        yield ORDERING.found(message, "REJECT it instead.", f"{place}.preserve_ordering")


def _policies(batching: Any) -> list[Any]:
    return [batching.default_queue_policy, *batching.priority_queue_policy.values()]


def _sequence(config: Any) -> Iterator[Finding]:
    batching, place = config.sequence_batching, "sequence_batching"
    if config.max_batch_size == 0:
        message = "with max_batch_size 0 each instance runs one sequence at a time"
        fix = "Set max_batch_size to the sequences that should run together."
        yield SEQUENCE_WITHOUT_BATCH.found(message, fix, place)
    if batching.HasField("oldest"):
        yield from _preferred(config, batching.oldest.preferred_batch_size, f"{place}.oldest")
    for strategy in ("direct", "oldest"):
        delay = getattr(batching, strategy).max_queue_delay_microseconds
        yield from _delay(delay, f"{place}.{strategy}")
    share = batching.direct.minimum_slot_utilization
    if not 0 <= share <= 1:
        message = f"minimum_slot_utilization {share:g} is not between 0 and 1"
        yield SLOT_UTILIZATION.found(message, "Write a share of the slots.", f"{place}.direct")


def _cache(config: Any) -> Iterator[Finding]:
    clash = ""
    if config.model_transaction_policy.decoupled:
        clash = "a decoupled model, which answers more or less than once"
    elif config.HasField("sequence_batching"):
        clash = "sequences, whose answers depend on what came before"
    if clash:
        message = f"response_cache does not go with {clash}"
        yield CACHE_REFUSED.found(message, "Drop one of the two.", "response_cache")
        return
    message = "cached answers survive a reload, even of other weights under the same version"
    fix = "Publish changes as new versions, never in place."
    yield CACHE_STALE.found(message, fix, "response_cache")
