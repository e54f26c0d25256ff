"""Our races are told from those that only seem to be some, inside libraries."""

from __future__ import annotations

from tests.native.races import our_races

REPORT = """==================
WARNING: ThreadSanitizer: data race (pid=1)
  Write of size 8 at 0x7b by thread T1:
    #0 operator delete(void*) tsan_new_delete.cpp:150 (libtsan.so.2+0x86)
    #1 {first}
    #2 BackendThread() <null> (libtritonserver-1.so+0x1)

  Previous read of size 8 at 0x7b by thread T2 (mutexes: write M1):
    #0 {second}
    #1 execute execution.cc:1 (libtriton_onnxruntime.so+0x3)

  Thread T1 (tid=1, running) created by main thread at:
    #0 pthread_create interceptors.cpp:1 (libtsan.so.2+0x5)
    #1 main main.cc:1 (triton_host+0x4)

SUMMARY: ThreadSanitizer: data race
==================
"""
OURS = "run execution.cc:9 (libtriton_onnxruntime.so+0x2)"
THEIRS = "triton::core::Payload::~Payload() <null> (libtritonserver-1.so+0x2e)"


def test_an_access_of_ours_makes_a_race_ours():
    report = REPORT.format(first=OURS, second=THEIRS)
    assert len(our_races(report)) == 1
    assert len(our_races(REPORT.format(first=THEIRS, second=OURS) + report)) == 2


def test_what_libraries_do_among_themselves_is_not_ours_even_if_we_called_them():
    assert our_races(REPORT.format(first=THEIRS, second=THEIRS)) == []


def test_the_end_of_a_thread_is_no_race():
    loader = "__GI__dl_deallocate_tls ../elf/dl-tls.c:682 (ld-linux-x86-64.so.2+0x1)"
    assert our_races(REPORT.format(first=loader, second=OURS)) == []


def test_silence_is_no_race():
    assert our_races('{"answers": 1}') == []
