from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from repo_builder.admission import PROCESS_BYTES, WEIGHTS_FACTOR, Limits, cores, export_bytes

SIZES = st.integers(0, 2**36)


@given(jobs=st.integers(1, 8), memory=SIZES, needs=st.lists(SIZES, max_size=20))
def test_what_runs_together_fits_or_is_alone(jobs, memory, needs):
    limits, running = Limits(jobs, memory), []
    for need in needs:
        if limits.admit(need, running):
            running.append(need)
    assert len(running) <= jobs
    assert len(running) <= 1 or sum(running) <= memory
    assert running or not needs


def test_an_export_takes_its_process_and_several_times_its_weights(tmp_path):
    (tmp_path / "weights").write_bytes(bytes(1000))
    assert export_bytes(tmp_path / "weights") == PROCESS_BYTES + WEIGHTS_FACTOR * 1000
    assert export_bytes(tmp_path) == PROCESS_BYTES + WEIGHTS_FACTOR * 1000
    assert export_bytes(tmp_path / "not here") == export_bytes(None) == PROCESS_BYTES


def test_a_lone_model_has_all_cores():
    assert Limits.of_this_machine(None, 1).threads == cores()
    assert Limits.of_this_machine(3, 100).jobs == 3
    assert Limits.of_this_machine(None, 100).jobs == cores()
    assert Limits.of_this_machine(None, 0).jobs == 1


def test_together_they_fill_the_cores():
    assert Limits(1, 0).threads == cores()
    assert Limits(10 * cores(), 0).threads == 1
