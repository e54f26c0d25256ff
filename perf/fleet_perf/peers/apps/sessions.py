"""What the peers' programs share: how a model is opened and how one request is answered."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import onnxruntime


@dataclass(frozen=True)
class Arguments:
    """What every program is started with."""

    port: int
    models: Path
    room: int
    folder: Path


def arguments() -> Arguments:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--models", type=Path, required=True, help="<models>/<name>/1/model.onnx")
    parser.add_argument("--room", type=int, required=True, help="models in memory at once")
    parser.add_argument("--folder", type=Path, required=True, help="for the program's own files")
    return Arguments(**vars(parser.parse_args()))


class OpenModel:
    """A model in memory."""

    def __init__(self, models: Path, name: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(models / name / "1" / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._fresh = True

    def answer(self, ids: Any) -> dict[str, Any]:
        """The scores of some rows, and whether the model was opened for them."""
        rows = numpy.asarray(ids, dtype=numpy.int64)
        (scores,) = self._session.run(None, {"ids": rows})
        opened, self._fresh = self._fresh, False
        return {"scores": scores.tolist(), "opened": opened}
