"""A port is ours from the first moment to the last, whoever of us listens on it."""

from __future__ import annotations

import socket

import pytest

from tritonfleet.errors import PortTaken
from tritonfleet.ports import Reservation

HOST = "127.0.0.1"


@pytest.fixture
def reservation():
    reservation = Reservation(HOST, 0, "--http-port")
    yield reservation
    reservation.release()


def listening(port):
    """As Envoy does it, and aiohttp with reuse_port."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((HOST, port))
    listener.listen()
    return listener


def test_our_own_programs_listen_on_it_one_after_the_other(reservation):
    for _ in range(2):
        with listening(reservation.port):
            with socket.create_connection((HOST, reservation.port)):
                pass


def test_every_connection_reaches_who_listens(reservation):
    with listening(reservation.port) as listener:
        for _ in range(20):
            with socket.create_connection((HOST, reservation.port)):
                listener.accept()[0].close()


def test_a_stranger_does_not_get_it_while_nobody_listens(reservation):
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind((HOST, reservation.port))


def test_another_fleet_does_not_share_it(reservation):
    with listening(reservation.port):
        with pytest.raises(PortTaken, match=f"port {reservation.port}.*--grpc-port"):
            Reservation(HOST, reservation.port, "--grpc-port")


def test_once_released_it_is_anybodys(reservation):
    port = reservation.port
    reservation.release()
    reservation.release()
    with socket.socket() as stranger:
        stranger.bind((HOST, port))


def test_an_address_that_is_not_ours_is_refused():
    with pytest.raises(PortTaken, match=r"192\.0\.2\.1"):
        Reservation("192.0.2.1", 0, "--http-port")
