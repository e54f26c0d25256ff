from __future__ import annotations

from tritonfleet.launchers import logs


def test_three_earlier_runs_are_kept_newest_first(tmp_path):
    log = tmp_path / "logs" / "gpu0.log"
    for run in range(5):
        logs.rotate(log)
        log.write_text(f"run {run}\n")
    kept = {path.name: path.read_text() for path in log.parent.iterdir()}
    assert kept == {
        "gpu0.log": "run 4\n",
        "gpu0.log.1": "run 3\n",
        "gpu0.log.2": "run 2\n",
        "gpu0.log.3": "run 1\n",
    }


def test_tail_is_the_last_lines_of_what_was_written_since(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("earlier\n")
    start = log.stat().st_size
    with log.open("a") as file:
        file.write("one\ntwo\nthree\n")
    assert logs.tail(log, 2) == "two\nthree"
    assert logs.tail(log, 20, start) == "one\ntwo\nthree"


def test_tail_reads_the_end_of_a_large_log_only(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("x" * 10_000_000 + "\nlast\n")
    assert logs.tail(log, 1) == "last"
    assert len(logs.tail(log, 2)) < 100_000


def test_tail_survives_bytes_that_are_no_text(tmp_path):
    log = tmp_path / "x.log"
    log.write_bytes(b"\xff\xfe boom\n")
    assert logs.tail(log, 5).endswith(" boom")


def test_a_log_that_does_not_exist_has_an_empty_tail(tmp_path):
    assert logs.tail(tmp_path / "nothing.log", 5) == ""
