"""TensorRT engines: whether the server they are meant for can load them, where that is known."""

from __future__ import annotations

from collections.abc import Iterator

from repo_builder.lint.findings import Expected, Finding, Rule
from repo_builder.lint.repository import Subject
from tritonfleet.server.engines import (
    STAMP_NAME,
    ServerFacts,
    Stamp,
    mismatch,
    read_stamp,
)

ENGINE_MISMATCH = Rule("engine-mismatch", "error", "an engine made for another TensorRT or GPU")
ENGINE_BATCH = Rule("engine-batch", "error", "batches larger than any profile of the engine takes")


def check(subject: Subject, expected: Expected) -> Iterator[Finding]:
    """Everything about the engines that bear a stamp."""
    if subject.backend != "tensorrt" or not subject.parsed:
        return
    for version in subject.served:
        stamp = read_stamp(subject.folder / str(version))
        if stamp is None:
            continue
        place = f"{version}/{STAMP_NAME}"
        server = ServerFacts(expected.tensorrt, expected.compute_capability)
        reason = mismatch(stamp, server)
        if reason:
            fix = "Build it on the kind of machine that serves it, in an image of that release."
            yield ENGINE_MISMATCH.found(reason, fix, place)
        largest = _largest_batch(stamp)
        if largest is not None and subject.config.max_batch_size > largest:
            message = (
                f"max_batch_size {subject.config.max_batch_size}; its profiles end at {largest}"
            )
            fix = "Lower max_batch_size, or build the engine with a larger profile."
            yield ENGINE_BATCH.found(message, fix, place)


def _largest_batch(stamp: Stamp) -> int | None:
    """The largest first dimension that one profile takes for all its inputs."""
    ends = [
        min(largest[0] for _, _, largest in profile.values())
        for profile in stamp.profiles
        if profile and all(largest for _, _, largest in profile.values())
    ]
    return max(ends, default=None)
