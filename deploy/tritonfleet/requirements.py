"""Prints what pyproject.toml requires, with the extras that are named."""

from __future__ import annotations

import sys
from pathlib import Path

import tomllib


def main() -> None:
    """One requirement in each line."""
    project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
    extras = (project["optional-dependencies"][extra] for extra in sys.argv[2:])
    for requirement in (*project["dependencies"], *(line for extra in extras for line in extra)):
        sys.stdout.write(requirement + "\n")


if __name__ == "__main__":
    main()
