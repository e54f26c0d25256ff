from __future__ import annotations

import signal
import subprocess
import sys

from tests.launchers.processes import LONG_S
from tritonfleet.launchers.backends.onnxruntime import release
from tritonfleet.server import memory

# The main thread waits in C, as it does inside Triton's stub: no Python handler would run.
LISTENER = """
import ctypes, sys
from tritonfleet.launchers.backends.onnxruntime.release import on_release
on_release(lambda: print("released", flush=True))
print("up", flush=True)
ctypes.CDLL(None).sleep(600)
while True:
    ctypes.CDLL(None).sleep(600)
"""


def test_the_wish_is_heard_while_the_main_thread_waits_elsewhere():
    with subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"up\n"
            for _ in range(2):
                process.send_signal(release.RELEASE_SIGNAL)
                assert process.stdout.readline() == b"released\n"
        finally:
            process.kill()


def test_who_does_not_know_of_it_is_not_disturbed():
    program = "import sys; print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"up\n"
        process.send_signal(release.RELEASE_SIGNAL)
        process.stdin.close()
        assert process.wait(LONG_S) == 0


def test_sender_and_listener_agree_on_the_signal():
    assert memory._RELEASE_SIGNAL == release.RELEASE_SIGNAL == signal.SIGURG
