"""LitServe: one worker that keeps the sessions of the models used last.

LitServe has no notion of many models in little memory, so the API object has an LRU of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import litserve

from fleet_perf.peers.apps.sessions import OpenModel, arguments


class Multiplexed(litserve.LitAPI):  # type: ignore[misc]  # litserve lives in its own environment
    """``{"model": name, "ids": rows}`` in, scores out."""

    def __init__(self, models: Path, room: int) -> None:
        super().__init__()
        self._models, self._room = models, room

    def setup(self, device: str) -> None:
        """Starts with nothing in memory."""
        self._open: OrderedDict[str, OpenModel] = OrderedDict()

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request, which may open its model."""
        return self._model(request["model"]).answer(request["ids"])

    def _model(self, name: str) -> OpenModel:
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        if len(self._open) >= self._room:
            self._open.popitem(last=False)  # its memory is free when the reference is gone
        self._open[name] = OpenModel(self._models, name)
        return self._open[name]


def main() -> None:
    """Serves until SIGTERM."""
    given = arguments()
    server = litserve.LitServer(
        Multiplexed(given.models, given.room),
        accelerator="cpu",
        devices=1,
        workers_per_device=1,
        timeout=False,
    )
    server.run(
        host="127.0.0.1",
        port=given.port,
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )


if __name__ == "__main__":
    main()
