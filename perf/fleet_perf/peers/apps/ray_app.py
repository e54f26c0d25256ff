"""Ray Serve: one replica that multiplexes models, least recently used ones leaving first.

With ``RAY_SERVE_ENABLE_HA_PROXY=1`` in the environment the same program stands behind HAProxy.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request

from fleet_perf.peers.apps.sessions import Arguments, OpenModel, arguments


def application(models: Path, room: int) -> Any:
    """The application to run."""

    @serve.deployment(num_replicas=1, max_ongoing_requests=100)
    class Multiplexed:
        """The model's name in Ray's own header and ``{"ids": rows}`` in, scores out."""

        @serve.multiplexed(max_num_models_per_replica=room)  # type: ignore[untyped-decorator]  # ray lives in its own environment
        async def model(self, name: str) -> OpenModel:
            """Opens a model; Ray lets another one go first when there is no room."""
            # In a thread: the models in memory answer meanwhile.
            return await asyncio.to_thread(OpenModel, models, name)

        async def __call__(self, request: Request) -> dict[str, Any]:
            """One request, which may open its model."""
            model: OpenModel = await self.model(serve.get_multiplexed_model_id())
            return model.answer((await request.json())["ids"])

    return Multiplexed.bind()  # type: ignore[attr-defined]  # as above


def start(given: Arguments) -> None:
    """An instance of Ray for this program alone, with the application in it."""
    ray.init(
        address="local",
        num_cpus=1,  # Ray keeps an idle worker process for each
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=str(given.folder),
    )
    quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
    serve.start(http_options={"host": "127.0.0.1", "port": given.port}, logging_config=quiet)
    serve.run(application(given.models, given.room), logging_config=quiet)


def main() -> None:
    """Serves until SIGTERM."""
    start(arguments())
    # Not before: starting, Ray puts a handler of its own in place, which aborts.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        signal.pause()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
