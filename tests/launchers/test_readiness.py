"""Ports that are free, on whichever interface."""

from __future__ import annotations

import socket

import pytest

from tritonfleet.launchers.readiness import PORT_TAKEN, free_ports


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "127.0.0.2"])
def test_ports_are_three_that_somebody_may_listen_on(address):
    ports = free_ports(address)
    numbers = {ports.http, ports.grpc, ports.metrics}
    assert len(numbers) == 3
    for number in numbers:
        with socket.socket() as listener:
            listener.bind((address, number))


def test_an_address_of_another_machine_has_none():
    with pytest.raises(OSError, match="assign"):
        free_ports("192.0.2.1")


def test_tritonserver_tells_which_port_is_taken():
    said = (
        "E1122 failed to start HTTP service: Unavailable - Socket '127.0.0.1:8000' already in use"
    )
    assert PORT_TAKEN.search(said).groups() == ("127.0.0.1", "8000")
