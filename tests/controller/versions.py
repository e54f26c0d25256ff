"""A repository in which new versions of adders are published, and a data plane that takes notes."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import onnx

from repo_builder.publishing.publish import exchange, link_tree
from tests.tiny import write_adder
from tritonfleet.server.layout import (
    CONFIG_NAME,
    EarlierVersion,
    ManifestEntry,
    model_versions,
    read_manifest,
    write_manifest,
)

_numbers = itertools.count()


def publish(
    repository: Path, name: str, amount: float | None, *, megabytes=0.0, config="", output="y"
) -> int:
    """One more version of an adder, as the builder puts it there; without ``amount`` a broken one.

    Older versions stay, and their files are linked into a new folder.
    """
    draft = repository.parent / f"draft{next(_numbers)}"
    write_adder(draft, name, amount=amount or 0.0, megabytes=megabytes)
    version = max(model_versions(repository / name), default=0) + 1
    if output != "y":
        _rename_output(draft / name, output)
    if amount is None:
        (draft / name / "1" / "model.onnx").write_bytes(b"no model at all")
    if version > 1:
        (draft / name / "1").rename(draft / name / str(version))
        for old in model_versions(repository / name):
            link_tree(repository / name / str(old), draft / name / str(old))
    with (draft / name / "config.pbtxt").open("a", encoding="utf-8") as file:
        file.write(config)
    earlier = _earlier(repository, name)
    _swap_in(draft / name, repository / name)
    told = entry(version).model_copy(update={"earlier": earlier})
    write_manifest(repository, read_manifest(repository).with_entry(name, told))
    shutil.rmtree(draft)
    return version


def _rename_output(folder: Path, output: str) -> None:
    model = onnx.load(folder / "1" / "model.onnx")
    model.graph.node[-1].output[0] = model.graph.output[0].name = output
    onnx.save(model, folder / "1" / "model.onnx")
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "y"', f'name: "{output}"'))


def _earlier(repository: Path, name: str) -> dict[int, EarlierVersion]:
    known = read_manifest(repository).models.get(name)
    if known is None:
        return {}
    files = {CONFIG_NAME: (repository / name / CONFIG_NAME).read_bytes()}
    now = EarlierVersion.of(known.model_dump(mode="json", exclude={"earlier"}), files)
    return {**known.earlier, known.version: now}


def _swap_in(draft: Path, target: Path) -> None:
    if target.exists():
        exchange(draft, target)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.rename(target)


def entry(version: int) -> ManifestEntry:
    """What the manifest says of a version, as far as a fleet reads it."""
    return ManifestEntry(
        fingerprint=str(version),
        version=version,
        backend="onnxruntime",
        source={},
        digest=str(version),
        artifact_bytes=1,
    )


class Notes:
    """A data plane that carries nothing and remembers what it was told."""

    def __init__(self):
        self.told: list[tuple[object, ...]] = []

    async def split(self, model, stable, canary):
        self.told.append(("split", stable, canary))

    async def share(self, model, percent):
        self.told.append(("share", percent))
