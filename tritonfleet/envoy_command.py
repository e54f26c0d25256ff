"""``tritonfleet envoy``: the Envoy of a fleet that runs in another process, or another container.

It outlives the fleet, so that a fleet may be replaced while resident models go on answering.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import click

from tritonfleet.errors import FleetError, LauncherUnavailable
from tritonfleet.gateway.envoy import handover
from tritonfleet.gateway.envoy.admin import Admin
from tritonfleet.gateway.envoy.files import Share, run_folder
from tritonfleet.gateway.envoy.handover import Report, Wanted
from tritonfleet.gateway.envoy.program import Program, find_program
from tritonfleet.parts import EnvoyProxy
from tritonfleet.ports import Reservation
from tritonfleet.settings import Settings, resolve_settings
from tritonfleet.supervisor import keep

log = logging.getLogger(__name__)
_POLL_S = 0.2
_EXIT_FAILED = 1


@click.command()
@click.option("--state-dir", type=click.Path(path_type=Path),
              help="The fleet's state directory, at the same path as there.")  # fmt: skip
@click.option("--envoy", help="The Envoy to use: a path, or image:NAME for a container.")
@click.option("--check", is_flag=True, help="Only tell, by the exit status, whether it serves.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
def envoy(check: bool, **flags: Any) -> int:
    """Run the Envoy of a fleet that is started with --attached-envoy.

    It waits for the fleet's configuration, restarts Envoy when it dies or when the fleet wants
    another, and lets requests finish before it stops.
    """
    settings = resolve_settings(Settings(), flags)
    if check:
        return asyncio.run(_check(settings))
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_until_told(settings))
    return 0


async def _check(settings: Settings) -> int:
    folder = run_folder(settings.state_dir, shared=True)
    admin = Admin(folder / "admin.sock")
    try:
        if await admin.ready():
            return 0
    finally:
        await admin.close()
    click.echo(f"no Envoy serves from {folder}", err=True)
    return _EXIT_FAILED


async def _until_told(settings: Settings) -> None:
    task = asyncio.current_task()
    assert task
    for number in (signal.SIGINT, signal.SIGTERM):
        # A second signal cuts the draining short.
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await follow(settings)


async def follow(settings: Settings) -> None:
    """Runs whichever Envoy the fleet wants, until it is cancelled.

    Raises why there is none: the fleet is told, too, and whoever started this starts it again.
    """
    folder = run_folder(settings.state_dir, shared=True)
    share = await asyncio.to_thread(Share, folder)
    try:
        program = await find_program(settings.envoy)
        log.info("%s waits for a fleet at %s", program, folder.parent)
        while True:
            await _serve(await _wanted(folder), folder, program, settings)
    finally:
        await asyncio.to_thread(share.end)


async def _serve(wanted: Wanted, folder: Path, program: Program, settings: Settings) -> None:
    """Returns when the fleet wants another Envoy and this one has let its requests finish."""
    _check_path(wanted, folder)
    with _reserved(wanted, folder):
        part = WantedEnvoy(wanted, program, settings.state_dir)
        try:
            await part.start()
            log.info("envoy serves at %s, ports %s", wanted.host, dict(wanted.ports))
            await _first(keep(part), _until_another(folder, wanted))
            log.info("the fleet wants another envoy; requests in flight may finish")
        finally:
            await part.stop(settings.stop_grace_s)


class WantedEnvoy(EnvoyProxy):
    """An Envoy that is kept running; the fleet learns what has become of its wish."""

    def __init__(self, wanted: Wanted, program: Program, state_dir: Path) -> None:
        options = wanted.options(program, state_dir)
        super().__init__(lambda: options)
        self._wanted = wanted

    async def start(self) -> None:
        """Starts it, and tells the fleet once it listens and routes, or why it does not."""
        try:
            await super().start()
        except FleetError as error:
            handover.report(self._wanted.folder, Report(self._wanted, str(error)))
            raise
        handover.report(self._wanted.folder, Report(self._wanted))


async def _wanted(folder: Path) -> Wanted:
    while True:
        found = await asyncio.to_thread(handover.wanted, folder)
        if found is not None:
            return found
        await asyncio.sleep(_POLL_S)


async def _until_another(folder: Path, wanted: Wanted) -> None:
    while True:
        if await _wanted(folder) != wanted:
            return
        await asyncio.sleep(_POLL_S)


async def _first(*work: Awaitable[None]) -> None:
    """Returns with whichever is done first; the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _check_path(wanted: Wanted, folder: Path) -> None:
    # The paths in Envoy's configuration are the fleet's.
    if wanted.folder != folder:
        error = LauncherUnavailable(
            "envoy",
            f"the state directory is {folder.parent} here and {wanted.folder.parent} for the fleet",
            "Mount it at the same path in both containers.",
        )
        handover.report(folder, Report(wanted, str(error)))
        raise error


@contextlib.contextmanager
def _reserved(wanted: Wanted, folder: Path) -> Iterator[None]:
    """Nobody else takes the ports, and no other Envoy shares them."""
    with contextlib.ExitStack() as stack:
        try:
            for listener, port in wanted.ports.items():
                reservation = Reservation(wanted.host, port, f"--{listener}-port")
                stack.callback(reservation.release)
        except FleetError as error:
            handover.report(folder, Report(wanted, str(error)))
            raise
        yield
