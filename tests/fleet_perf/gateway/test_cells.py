from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet_perf.gateway.cells import targets
from tests.fleet_perf.gateway.builders import cell, run

RATES = st.floats(1.0, 1e5)


def test_figures_are_medians_over_the_pairs():
    found = cell(
        direct=[run(100, 1000, 2000), run(200, 1500, 2500), run(100, 900, 1000)],
        gateway=[run(80, 1100, 2100), run(180, 1550, 3500), run(50, 1100, 1000)],
    )
    assert found.throughput.median == 0.8
    assert found.added_p50_us == 100
    assert found.added_p99_us == 100


def test_the_proxys_time_is_shared_by_all_requests_that_triton_counted():
    found = cell([run()], [run(requests=4, cpu_us=75)])
    assert found.cpu_us_per_request == 75


@given(st.lists(RATES, min_size=1, max_size=9), st.floats(0.1, 10.0))
def test_a_machine_that_slows_down_between_pairs_moves_no_ratio(rates, factor):
    found = cell([run(rate) for rate in rates], [run(rate * factor) for rate in rates])
    assert abs(found.throughput.median - factor) < 1e-6 * factor


def kept(*cells):
    return {target.what: target.kept for target in targets(cells)}


def test_the_cpu_of_a_request_is_bounded_where_there_are_many():
    few = cell([run()], [run(cpu_us=300)], concurrency=1)
    many = cell([run()], [run(cpu_us=300)], concurrency=8)
    good = cell([run()], [run(cpu_us=100)], concurrency=32)
    found = kept(few, many, good)
    assert [what for what, fine in found.items() if not fine] == [
        "small, http, concurrency 8: CPU µs per request in Envoy"
    ]
    assert "small, http, concurrency 1: CPU µs per request in Envoy" not in found


def test_a_model_that_computes_has_to_keep_its_throughput_at_any_concurrency():
    slow = cell([run(100)], [run(96)], model="compute", concurrency=1)
    good = cell([run(100)], [run(97)], model="compute", concurrency=8)
    found = kept(slow, good)
    assert not found["compute, http, concurrency 1: throughput ratio"]
    assert found["compute, http, concurrency 8: throughput ratio"]


def test_a_single_request_that_python_saw_is_one_too_many():
    found = kept(cell([run()], [run()]), cell([run()], [run(), run(python=1)]))
    assert not found["requests that Python saw, in all cells"]
