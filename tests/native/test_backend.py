"""The native backend under sanitizers: asked oddly, fed with damaged files, loaded and unloaded.

Short here. ``make storm``, ``make fuzz`` and ``make cycles`` let the same tests run for long.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.native.races import our_races
from tritonfleet.errors import LauncherUnavailable
from tritonfleet.launchers.native import find_native

pytestmark = [pytest.mark.sanitize, pytest.mark.timeout(0)]

STORM_S = int(os.environ.get("TRITONFLEET_STORM_S", "5"))
CYCLES = int(os.environ.get("TRITONFLEET_CYCLES", "100"))
FUZZ_ITERATIONS = int(os.environ.get("TRITONFLEET_FUZZ_ITERATIONS", "200"))
FUZZ_SEED = int(os.environ.get("TRITONFLEET_FUZZ_SEED", "1"))


@pytest.fixture
def plain(sanitized):
    """The backend as it is installed: what a sanitizer adds would be measured, too."""
    try:
        library = find_native().library
    except LauncherUnavailable as error:
        pytest.skip(str(error))
    build = sanitized("plain")
    shutil.copy(library, build.folder / "backends" / "onnxruntime" / library.name)
    return build


def test_no_memory_is_misused_or_lost(sanitized, doublers):
    counted = sanitized("address").host("check", doublers)
    assert counted["models"] == len(list(doublers.iterdir()))


@pytest.mark.parametrize("name", ["address", "plain"])
def test_loads_unloads_and_requests_from_many_threads_go_well(sanitized, doublers, name):
    counted = sanitized(name).host("storm", doublers, seconds=STORM_S, threads=6, seed=FUZZ_SEED)
    assert min(counted["answers"], counted["loads"], counted["unloads"]) > 0


def test_threads_never_meet_in_our_code(sanitized, doublers, tmp_path):
    build = sanitized("thread")
    log = tmp_path / "races"
    # The status is the host's; what is reported is judged here.
    options = f"allocator_may_return_null=1 exitcode=0 log_path={log}"
    build.environment["TSAN_OPTIONS"] = options
    counted = build.host("storm", doublers, seconds=STORM_S, threads=6, seed=FUZZ_SEED)
    reports = "".join(path.read_text() for path in tmp_path.glob("races.*"))
    assert our_races(reports) == []
    assert counted["answers"] > 0


def test_odd_requests_get_an_answer_or_an_error(sanitized, repository):
    counted = sanitized("address").host(
        "fuzz-requests", repository, iterations=FUZZ_ITERATIONS, seed=FUZZ_SEED
    )
    assert min(counted["answers"], counted["errors"]) > 0


def test_damaged_models_are_opened_or_refused(sanitized, repository):
    counted = sanitized("address").host(
        "fuzz-models", repository, iterations=FUZZ_ITERATIONS, seed=FUZZ_SEED
    )
    assert sum(counted.values()) == FUZZ_ITERATIONS
    assert counted["refused"] > 0


def seeds(folder: Path, repository: Path) -> list[Path]:
    """Something sound for each reader of the fuzz target, whom the first byte chooses."""
    text = b"\3\0\0\0abc\0\0\0\0\1\0\0\0x"
    samples = [(0, path.read_bytes()) for path in repository.glob("*/1/model.onnx")]
    samples += [
        (1, path.read_bytes()) for path in (Path(__file__).parent / "configs").glob("*.json")
    ]
    samples += [(2, b'{"cmdline":{"library":"l","load_thread_count":"2"}}'), (3, text)]
    samples += [(4, "Load model from /m failed:Größe /a/b.cc:1 f(int) näher.".encode())]
    for number, (reader, sample) in enumerate(samples):
        (folder / f"{number}").write_bytes(bytes([reader]) + sample)
    return sorted(folder.iterdir())


def test_no_bytes_lead_a_parser_astray(sanitized, repository, tmp_path):
    folder = tmp_path / "seeds"
    folder.mkdir()
    files = seeds(folder, repository)
    sanitized("address").parsing_fuzz(100 * FUZZ_ITERATIONS, FUZZ_SEED, files)


def test_memory_does_not_grow_with_loads(plain, doublers):
    counted = plain.host("cycles", doublers, cycles=CYCLES)
    resident = [counted[name] for name in sorted(counted)]
    settled, last = resident[len(resident) // 4], resident[-1]
    # Allocators keep a little here and there; half of the models have weights of 64 KiB and more.
    assert last - settled < 2**20 + CYCLES * 4096
