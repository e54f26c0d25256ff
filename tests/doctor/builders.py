"""Machines and fleets that tests judge."""

from __future__ import annotations

from pathlib import Path

from tritonfleet.doctor.needs import Needs
from tritonfleet.doctor.nvidia import Gpu, parse_log, with_names
from tritonfleet.settings import Settings
from tritonfleet.spec import ServerSpec

GIB = 2**30
MIB = 2**20
_SAMPLES = Path(__file__).parent / "samples"


def sample(name: str) -> str:
    return (_SAMPLES / name).read_text()


def sliced_gpus() -> tuple[Gpu, ...]:
    return with_names(parse_log(sample("mig.xml")).gpus, sample("mig.txt"))


def plain_gpus() -> tuple[Gpu, ...]:
    return parse_log(sample("two_gpus.xml")).gpus


def container(name="gpu0", capacity=GIB, **options) -> ServerSpec:
    return ServerSpec(name=name, capacity=capacity, launcher="container", container=options)


def embedded(name="local", capacity=GIB) -> ServerSpec:
    return ServerSpec(name=name, capacity=capacity)


def needs(*servers, models=(), instances=1, **settings) -> Needs:
    return Needs(Settings(**settings), servers, tuple(models), instances, instances)


def statuses(findings) -> list[str]:
    return [finding.status for finding in findings]
