"""What each release of NVIDIA's Triton image carries, as far as somebody says so in public.

Facts only, and none from memory; None is what we could not read anywhere. Where they are from:

* Triton: NVIDIA names 23.10, 24.03, 24.09, 24.10, 24.12, 25.01, 25.03 and 25.06; there are as many
  minor versions between them as releases, so that leaves one for each. The same holds from 25.06
  to 26.05, 2.69.0, once 25.07, which has no release notes of its own, is left out.
* CUDA, driver, compute capability: "Driver Requirements" and "GPU Requirements" of the release
  notes, docs.nvidia.com/deeplearning/triton-inference-server/release-notes/rel-YY-MM.html. A CUDA
  of one number is that of the -vllm- image of that release, or of the releases on both its sides.
* Python: that of the -vllm- image of the same release, in docs/introduction/compatibility.md of
  github.com/triton-inference-server/server.
* ONNX Runtime: the table in the same file; for earlier releases build.py on their branches. They
  differ once: for 24.08 build.py says 1.19.2.
* TensorRT of the plain image: 24.02 is what a developer of Triton's printed in it (issue 6959 of
  that repository), 24.05 by issue 7374, 24.09 from the environment of an image made from it. For
  the others NVIDIA's Frameworks Support Matrix tells, of which we found no copy: but each image
  tells its own, as TRT_VERSION in its environment.
* TensorRT of the -trtllm- images: compatibility.md again. It is TensorRT-LLM's: those images hold
  no backend for engines of the plain kind (tensorrtllm_backend issue 401).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

REGISTRY = "nvcr.io/nvidia/tritonserver"


class Release(NamedTuple):
    """One release of the image; None for what is not known of it."""

    name: str
    triton: str | None
    cuda: str | None
    """Only the major version where no more is known."""
    driver: int | None
    """The branch that its notes ask for; data centre GPUs may have older ones."""
    compute_capability: str | None
    """The lowest."""
    python: str | None
    onnxruntime: str | None
    tensorrt: str | None
    """Of the plain image, -py3."""


class OnnxRuntime(NamedTuple):
    """What an ONNX Runtime loads, and the first Triton that brings it or a later one."""

    onnxruntime: str
    opset: int
    ir_version: int
    triton: str | None


# fmt: off
_ROWS = (
    #        name     Triton    CUDA          driver comp. Python  ONNX Rt.  TensorRT
    Release("23.10", "2.39.0", "12",          None, None,  None,   None,     None),
    Release("23.11", "2.40.0", "12.3.0",      545,  "6.0", None,   "1.16.3", None),
    Release("23.12", "2.41.0", "12.3.2",      545,  "6.0", None,   "1.16.3", None),
    Release("24.01", "2.42.0", "12.3.2",      545,  "6.0", None,   "1.16.3", None),
    Release("24.02", "2.43.0", "12",          None, None,  None,   "1.16.3", "8.6.3"),
    Release("24.03", "2.44.0", "12",          545,  "6.0", None,   "1.17.2", None),
    Release("24.04", "2.45.0", "12.4",        545,  "6.0", "3.10", "1.17.3", None),
    Release("24.05", "2.46.0", "12.4",        545,  "6.0", "3.10", "1.18.0", "10.0"),
    Release("24.06", "2.47.0", "12.5.0.23",   545,  "6.0", "3.10", "1.18.0", None),
    Release("24.07", "2.48.0", "12.5.1",      555,  "6.0", "3.10", "1.18.1", None),
    Release("24.08", "2.49.0", "12.6",        560,  "6.0", "3.10", "1.18.1", None),
    Release("24.09", "2.50.0", "12",          None, None,  "3.10", "1.19.2", "10.4.0.26"),
    Release("24.10", "2.51.0", "12.6.2",      560,  "6.0", "3.10", "1.19.2", None),
    Release("24.11", "2.52.0", "12",          None, None,  "3.12", "1.19.2", None),
    Release("24.12", "2.53.0", "12.6.3",      560,  None,  "3.12", "1.20.1", None),
    Release("25.01", "2.54.0", "12.8.0.038",  560,  "7.5", "3.12", "1.20.1", None),
    Release("25.02", "2.55.0", "12.8.0.38",   560,  "7.5", "3.12", "1.20.1", None),
    Release("25.03", "2.56.0", "12.8.1.012",  560,  "7.5", "3.12", "1.21.0", None),
    Release("25.04", "2.57.0", "12.9.0",      575,  "7.5", "3.12", "1.21.0", None),
    Release("25.05", "2.58.0", "12",          None, None,  "3.12", "1.22.0", None),
    Release("25.06", "2.59.0", "12.9.1.010",  575,  "7.5", "3.12", "1.22.0", None),
    Release("25.07", None,     "12",          None, None,  "3.12", "1.22.0", None),
    Release("25.08", "2.60.0", "13.0.0.044",  575,  "7.5", "3.12", "1.23.0", None),
    Release("25.09", "2.61.0", "13",          None, None,  "3.12", "1.23.0", None),
    Release("25.10", "2.62.0", "13.0.2.006",  575,  "7.5", "3.12", "1.23.1", None),
    Release("25.11", "2.63.0", "13",          None, None,  "3.12", "1.23.2", None),
    Release("25.12", "2.64.0", "13.1.0.36",   575,  "7.5", "3.12", "1.23.2", None),
    Release("26.01", "2.65.0", "13",          None, None,  "3.12", "1.23.2", None),
    Release("26.02", "2.66.0", "13.1.1",      575,  "7.5", "3.12", "1.24.1", None),
    Release("26.03", "2.67.0", "13",          None, None,  "3.12", "1.24.2", None),
    Release("26.04", "2.68.0", "13.2.1",      575,  "7.5", "3.12", "1.24.4", None),
    Release("26.05", "2.69.0", "13.2.1",      None, "7.5", "3.12", "1.24.4", None),
    Release("26.06", None,     "13.3.0",      None, "7.5", "3.12", "1.24.4", None),
    Release("26.07", None,     "13.3.1",      None, "7.5", "3.12", "1.27.0", None),
    Release("26.08", None,     "13.4.1",      None, "7.5", "3.12", "1.28.0", None),
    Release("26.09", None,     "13.4.1",      None, "7.5", None,   None,     None),
    Release("26.10", None,     "13.4.3.001",  None, "7.5", None,   None,     None),
)
# fmt: on
RELEASES: Mapping[str, Release] = {row.name: row for row in _ROWS}
TRTLLM_IMAGES: Mapping[str, str] = {
    "24.04": "9.3.0",
    "24.05": "10.0.1.6",
    "24.06": "10.0.1",
    "24.07": "10.1.0",
    "24.08": "10.3.0",
    **dict.fromkeys(("24.09", "24.10"), "10.4.0"),
    "24.11": "10.6.0",
    "24.12": "10.7.0",
    **dict.fromkeys(("25.01", "25.02"), "10.8.0.43"),
    **dict.fromkeys(("25.03", "25.04", "25.05"), "10.9.0.34"),
    **dict.fromkeys(("25.06", "25.07"), "10.10.0.31"),
    **dict.fromkeys(("25.08", "25.09", "25.10"), "10.11.0.33"),
    **dict.fromkeys(("25.11", "25.12", "26.01", "26.02"), "10.13.3.9"),
    **dict.fromkeys(("26.03", "26.04", "26.05", "26.06", "26.07"), "10.14.1.48"),
}
"""TensorRT beside TensorRT-LLM."""
ONNX_RUNTIMES = (
    # Operator sets and formats were found by loading files with each.
    OnnxRuntime("1.16", 19, 9, "23.11"),
    OnnxRuntime("1.17", 20, 9, "24.03"),
    OnnxRuntime("1.18", 21, 10, "24.05"),
    OnnxRuntime("1.21", 22, 10, "25.03"),
    OnnxRuntime("1.23", 23, 11, "25.08"),
    OnnxRuntime("1.24", 25, 13, "26.02"),
    OnnxRuntime("1.26", 26, 13, "26.07"),
    # Of the same sets; the first that runs ConvInteger on signed weights.
    OnnxRuntime("1.31", 26, 13, None),
)
NEWEST_ONNX_RUNTIME = ONNX_RUNTIMES[-1]


def numbers(version: str) -> tuple[int, ...]:
    """A version for comparing: '10.4.0.26' is (10, 4, 0, 26); ends before what is no number."""
    parts = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, parts[0].split("."))) if parts else ()


# -- images ------------------------------------------------------------------------------------

_TAG = re.compile(r"(?P<release>\d\d\.\d\d)(?P<kind>(-[a-z0-9]+)*)")


@dataclass(frozen=True, slots=True)
class OfficialImage:
    """What the name of an image says, if it is one of NVIDIA's or a mirror's."""

    release: str
    kind: str
    """The rest of the tag, such as 'py3' or 'trtllm-python-py3'."""


def read_image_name(image: str) -> OfficialImage | None:
    """The release and kind in a name such as 'mirror.example:5000/nvidia/tritonserver:25.08-py3'.

    A digest after the tag does not matter; a digest in place of it tells nothing.
    """
    name, _, _ = image.partition("@")
    path, _, tag = name.rpartition(":")
    found = _TAG.fullmatch(tag)
    if found is None or path.rsplit("/", 1)[-1] != "tritonserver":
        return None
    return OfficialImage(found["release"], found["kind"].removeprefix("-"))


def official_image(release: str) -> str:
    """NVIDIA's image with all backends."""
    return f"{REGISTRY}:{release}-py3"


def image_tensorrt(tag: str) -> str | None:
    """TensorRT's version in an image such as '25.11-trtllm-python-py3'; None if unknown."""
    release, _, kind = tag.partition("-")
    if kind.startswith("trtllm"):
        return TRTLLM_IMAGES.get(release)
    row = RELEASES.get(release) if kind in ("", "py3") else None
    return row.tensorrt if row else None


# -- ONNX Runtime ------------------------------------------------------------------------------


def onnx_runtime_of(triton: str) -> OnnxRuntime:
    """The ONNX Runtime of a release such as '24.10'; ValueError for one not known."""
    wanted = _month(triton)
    found = [each for each in ONNX_RUNTIMES if each.triton and _month(each.triton) <= wanted]
    if not found:
        oldest = ONNX_RUNTIMES[0].triton
        raise ValueError(f"'{triton}' is older than {oldest}, the oldest known")
    return found[-1]


def onnx_runtime(version: str) -> OnnxRuntime | None:
    """What an ONNX Runtime of a version such as '1.19.2' loads; None for one not known."""
    found = [each for each in ONNX_RUNTIMES if numbers(each.onnxruntime) <= numbers(version)]
    return found[-1] if found else None


def _month(triton: str) -> tuple[int, int]:
    year, _, month = triton.partition(".")
    if not (year.isdecimal() and month.isdecimal() and 1 <= int(month) <= 12):
        raise ValueError(f"'{triton}' is no release of Triton; write it as 24.10")
    return int(year), int(month)


# -- drivers -----------------------------------------------------------------------------------

# docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
_OLDEST_DRIVER = {12: 525, 13: 580}
"""With which programs of any minor version of a CUDA run, perhaps not all of their features."""
_LATER_DATA_CENTER = ("470.57", "525.85", "535.86", "545.23")
_DATA_CENTER = {
    **dict.fromkeys(("23.11", "23.12"), ("450.51", "470.57", "510.47", *_LATER_DATA_CENTER[1:])),
    **{row.name: _LATER_DATA_CENTER for row in _ROWS if row.driver and row.name > "23.12"},
}
"""By the same notes: the oldest driver of each branch that does with a data centre GPU, through
the compatibility package in the image."""


@dataclass(frozen=True, slots=True)
class DriverCheck:
    """Whether a driver does for a release, and why."""

    level: Literal["ok", "warning", "error", "unknown"]
    message: str


def data_center_drivers(release: str) -> tuple[str, ...]:
    """The oldest driver of each older branch that does with a data centre GPU."""
    return _DATA_CENTER.get(release, ())


def needed_driver(release: str) -> int | None:
    """The branch with which a release runs on any GPU; None if unknown."""
    known = RELEASES.get(release)
    if known is None or known.cuda is None:
        return None
    # The notes of 25.08 to 26.04 still ask for 575, with which no CUDA 13 runs by itself.
    return max(known.driver or 0, _OLDEST_DRIVER.get(numbers(known.cuda)[0], 0)) or None


def check_driver(driver: str | None, release: str) -> DriverCheck:
    """Whether NVIDIA's driver of this version, such as '550.54.15', does for a release."""
    wanted, have = needed_driver(release), numbers(driver or "")
    if wanted is None:
        return DriverCheck("unknown", f"which driver release {release} needs is not known here")
    if not have:
        cause = f"there is no NVIDIA driver; release {release} needs {wanted} or later for GPUs"
        return DriverCheck("error", f"{cause}: install it")
    if have[0] >= wanted:
        return DriverCheck("ok", f"driver {driver} does for release {release}: {wanted} or later")
    return _check_older_driver(str(driver), have, release, wanted)


def _check_older_driver(
    driver: str, have: tuple[int, ...], release: str, wanted: int
) -> DriverCheck:
    cuda = RELEASES[release].cuda or ""
    told = f"release {release} (CUDA {cuda}) asks for driver {wanted} or later, this is {driver}"
    if have[0] >= _OLDEST_DRIVER.get(numbers(cuda)[0], wanted):
        return DriverCheck(
            "warning", f"{told}: it runs, but perhaps not all of its features; update the driver"
        )
    older = data_center_drivers(release)
    if any(have[0] == numbers(each)[0] and have >= numbers(each) for each in older):
        return DriverCheck(
            "warning", f"{told}, which by NVIDIA's notes does on data centre GPUs only"
        )
    return DriverCheck("error", f"{told}: update the driver, or choose {_suiting(have)}")


def _suiting(have: tuple[int, ...]) -> str:
    """The newest release that a driver does for, in words."""
    able = [name for name in RELEASES if (needed_driver(name) or have[0] + 1) <= have[0]]
    return f"an earlier release, such as {able[-1]}" if able else "an older release than any here"
