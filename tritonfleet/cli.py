"""``tritonfleet``: finds the subcommands, and prints errors as sentences instead of traces.

Subcommands are entry points under ``tritonfleet.commands``; only the called one is imported.
"""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.console import Console

from tritonfleet import plugins
from tritonfleet.errors import FleetError, SpecError

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(plugins.names("commands"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in plugins.names("commands"):
            return None
        try:
            command: click.Command = plugins.lookup("commands", cmd_name)
        except ImportError as error:
            return _unavailable(cmd_name, error)
        return command


def _unavailable(name: str, error: ImportError) -> click.Command:
    """A command whose packages are not installed says so when it is called."""

    def fail(**_: Any) -> None:
        raise click.ClickException(f"'{name}' cannot run here: {error}. See 'make help'.")

    return click.Command(name, callback=fail, short_help=f"(unavailable: {error})")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tritonfleet")
def cli() -> None:
    """Run many models on few GPUs with NVIDIA Triton Inference Server."""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits with its status."""
    try:
        status = cli.main(arguments, standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except FleetError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        sys.exit(EXIT_BAD_INPUT if isinstance(error, SpecError) else EXIT_FAILED)
    sys.exit(status if isinstance(status, int) else 0)
