"""The probes, asked of the machine that the tests run on."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import psutil
import pytest

from tests.doctor.builders import sample
from tritonfleet.doctor import machine as module
from tritonfleet.doctor.commands import family_of, install
from tritonfleet.doctor.machine import Machine, ask, parse_span
from tritonfleet.doctor.needs import Port


@pytest.fixture
def machine():
    return Machine()


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


def port(number) -> Port:
    return Port("127.0.0.1", number, "gateway, HTTP", "--http-port")


# -- commands --------------------------------------------------------------------------------


def test_a_command_that_is_not_there_is_no_error():
    assert ask("tritonfleet-no-such-program").status is None


def test_a_command_that_takes_too_long_is_given_up():
    assert ask("sleep", "60", timeout_s=0.05).text == "no answer within 0.05 s"


def test_a_command_cannot_wait_for_somebody_to_type():
    assert ask(sys.executable, "-c", "input()").status == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1min 30s", 90), ("500ms", 0.5), ("2h", 7200), ("infinity", None), ("", None), ("5x", None)],
)
def test_time_spans_are_read_as_systemd_writes_them(text, seconds):
    assert parse_span(text) == seconds


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ('ID=debian\nVERSION_ID="12"\n', "debian"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "debian"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "redhat"),
        ("ID=arch\n", "other"),
        ("", "other"),
    ],
)
def test_distributions_are_known_by_their_relatives(text, family):
    assert family_of(text) == family


def test_an_unknown_distribution_is_told_both_ways():
    steps = " ".join(install("toolkit", "other"))
    assert "apt-get" in steps
    assert "dnf" in steps


# -- this machine ----------------------------------------------------------------------------


def test_memory_and_cores_are_those_of_this_machine(machine):
    assert 0 < machine.memory.available_bytes <= machine.memory.total_bytes
    assert machine.memory.total_bytes == psutil.virtual_memory().total
    assert 0 < machine.cores <= len(os.sched_getaffinity(0))


def test_a_port_that_somebody_has_is_told_with_its_owner(machine, listener):
    state = machine.port(port(listener))
    assert state.error == os.strerror(98)
    assert state.owner is not None
    assert f"pid {os.getpid()}" in state.owner


def test_a_free_port_stays_free(machine):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        number = sock.getsockname()[1]
    assert machine.port(port(number)).error is None
    assert machine.port(port(number)).error is None


def test_an_address_of_another_machine_cannot_be_listened_on(machine):
    state = machine.port(Port("192.0.2.1", 8000, "gateway, HTTP", "--http-port"))
    assert state.error
    assert state.owner is None


def test_an_address_answers_or_says_why_not(machine, listener):
    assert machine.answers(f"127.0.0.1:{listener}") is None
    assert "refused" in machine.answers("127.0.0.1:1")
    assert machine.answers("no port at all")


def test_the_disk_of_a_folder_that_is_yet_to_come_is_that_of_the_next_above(machine, tmp_path):
    found = machine.disk(tmp_path / "a" / "b")
    assert found.path == tmp_path / "a" / "b"
    assert found.total_bytes == machine.disk(tmp_path).total_bytes
    assert found.writable


# -- a machine with a driver -----------------------------------------------------------------


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program of this name and text at the front of the PATH."""

    def make(name, script):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")

    return make


def recorded(name) -> Path:
    return Path(__file__).parent / "samples" / name


def test_what_nvidia_smi_tells_in_its_three_answers_comes_together(program, machine):
    program(
        "nvidia-smi",
        f"""case "$*" in
            "-q -x") cat {recorded("mig.xml")};;
            "-L") cat {recorded("mig.txt")};;
            *) printf '0, 8.0\\n1, 8.0\\n';;
        esac""",
    )
    program("journalctl", "echo 'NVRM: Xid (PCI:0000:07:00): 31, pid=1, MMU Fault'; echo other")
    nvidia = machine.nvidia
    assert (nvidia.driver, nvidia.problem) == ("535.129.03", None)
    assert [gpu.compute_capability for gpu in nvidia.gpus] == ["8.0", "8.0"]
    assert nvidia.gpus[0].mig_devices[1].profile == "1g.5gb"
    assert nvidia.xids == ("NVRM: Xid (PCI:0000:07:00): 31, pid=1, MMU Fault",)


def test_nvidia_smi_without_a_driver_is_told_in_its_own_words(program, machine):
    program("nvidia-smi", "echo 'NVIDIA-SMI has failed'; exit 9")
    assert (machine.nvidia.driver, machine.nvidia.problem) == (None, "NVIDIA-SMI has failed")


def test_an_answer_in_another_form_is_a_problem_and_no_crash(program, machine):
    program("nvidia-smi", "echo '<?xml version=\"1.0\" ?><other/>'")
    assert machine.nvidia.problem == "nvidia-smi -q -x answers <other>"


def test_a_machine_is_asked_once(program, machine, tmp_path):
    program("nvidia-smi", f"echo asked >> {tmp_path}/times; exit 9")
    assert machine.nvidia is machine.nvidia
    assert (tmp_path / "times").read_text() == "asked\n"


def test_a_unit_of_systemd_tells_how_long_it_may_take_to_stop(program, machine):
    program("systemctl", "printf 'TimeoutStopUSec=1min 30s\\nLoadState=loaded\\n'")
    assert machine.unit_stop_timeout_s("tritonfleet.service") == 90


def test_a_unit_that_is_not_installed_has_no_timeout(program, machine):
    program("systemctl", "printf 'TimeoutStopUSec=1min 30s\\nLoadState=not-found\\n'")
    assert machine.unit_stop_timeout_s("tritonfleet.service") is None


def test_device_specifications_are_read_from_both_folders(machine, monkeypatch, tmp_path):
    (tmp_path / "nvidia.yaml").write_text(sample("mig.txt"))
    (tmp_path / "notes.txt").write_text("no specification")
    monkeypatch.setattr(module, "CDI_FOLDERS", (tmp_path, tmp_path / "missing"))
    assert list(machine.cdi_specs) == [str(tmp_path / "nvidia.yaml")]
