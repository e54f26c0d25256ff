"""What is known of a model's memory after it was measured more than once."""

from __future__ import annotations

from tritonfleet.server.layout import Footprint


def larger(earlier: Footprint | None, now: Footprint | None) -> Footprint | None:
    """The measurement of unchanged weights, with the peak of the larger request.

    A new configuration alone is proved with small made-up inputs: the requests of the export, when
    there were real ones, tell more of the peak. They tell nothing of other instances or places.
    """
    if earlier is None or now is None:
        return now
    if (earlier.instances, earlier.home) != (now.instances, now.home):
        return now
    if earlier.batch_size < now.batch_size:
        return now
    peak_bytes = max(earlier.peak_bytes, now.peak_bytes)
    return now.model_copy(update={"peak_bytes": peak_bytes, "batch_size": earlier.batch_size})
