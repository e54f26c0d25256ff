"""Listens for the wish that this process give its model's memory back now.

Triton tells a model of its unloading only after a second, and the process ends after that. Whoever
decided on the unload can say so at once, with SIGURG: a signal that does nothing to a process that
does not know of it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

RELEASE_SIGNAL = signal.SIGURG


def on_release(release: Callable[[], None]) -> None:
    """Calls ``release`` in a thread of its own whenever the signal arrives; main thread only."""
    receiver, sender = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(sender, False)
    # The main thread waits inside Triton's code and would never run a Python handler; the byte
    # that set_wakeup_fd writes is seen at once.
    signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    signal.signal(RELEASE_SIGNAL, lambda number, frame: None)
    threading.Thread(target=_obey, args=(receiver, release), daemon=True).start()


def _obey(receiver: int, release: Callable[[], None]) -> None:
    while received := os.read(receiver, 64):
        if RELEASE_SIGNAL in received:
            release()
