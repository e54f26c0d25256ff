"""Removes from installed packages what they carry for their own tests, compilers and debuggers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

NEEDLESS = ("*/tests", "*/include", "*/f2py/src", "*.a", "*.pyi", "*.pyx", "*.pxd", "*.c", "*.h")
# Extension modules only: libraries that a wheel brings have been patched, and may not bear it.
MODULES = ("*.cpython-*.so", "*.abi3.so")


def main() -> None:
    """Goes through the folders that are named."""
    for folder in map(Path, sys.argv[1:]):
        for path in matches(folder, NEEDLESS):
            remove(path)
        subprocess.run(["strip", "--strip-unneeded", *matches(folder, MODULES)], check=True)


def matches(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Everything below a folder that one of the patterns fits."""
    return [path for pattern in patterns for path in sorted(folder.rglob(pattern))]


def remove(path: Path) -> None:
    """A file, or a folder with all in it; what went with its parent is no matter."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
