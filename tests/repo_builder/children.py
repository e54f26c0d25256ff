"""What test_isolation runs in other processes: importable without pytest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from repo_builder.isolation import Report
from tritonfleet.errors import ParityFailed


def doubled(number: int, report: Report) -> int:
    report("thinking")
    sys.stdout.write("noise on stdout\n")
    os.write(2, b"noise from C\n")
    return number * 2


def refused(_: Any, report: Report) -> None:
    raise ParityFailed("m", "the answer is wrong", "Look again.")


def broken(_: Any, report: Report) -> None:
    try:
        raise KeyError("the real cause")
    except KeyError as error:
        raise RuntimeError("something went wrong") from error


def exits(status: int, report: Report) -> None:
    os.write(1, b"last words\n")
    os._exit(status)


def killed(_: Any, report: Report) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def with_grandchild(file: str, report: Report) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(file).write_text(str(child.pid))
    report("waiting")
    time.sleep(600)


def group(_: Any, report: Report) -> tuple[int, int]:
    return os.getpid(), os.getsid(0)


def imports_what_is_not_there(name: Any, report: Report) -> None:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
