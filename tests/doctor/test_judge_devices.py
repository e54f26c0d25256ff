from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.doctor.builders import GIB, plain_gpus, sliced_gpus, statuses
from tritonfleet.doctor.facts import Mps, Nvidia
from tritonfleet.doctor.judge_devices import (
    Wish,
    judge_devices,
    judge_driver,
    judge_mig,
    judge_mps,
    mps_client,
)

NO_MPS = Mps(daemon=False, pipe_directory=Path("/tmp/nvidia-mps"), pipe_exists=False)
MPS = replace(NO_MPS, daemon=True, pipe_exists=True)


def with_gpus(gpus, **facts) -> Nvidia:
    return Nvidia(hardware=True, loaded=True, program=True, driver="560.35.03", gpus=gpus, **facts)


def the_only(findings):
    [finding] = findings
    return finding


# -- driver ----------------------------------------------------------------------------------


def test_no_driver_is_fine_where_no_server_asks_for_a_gpu():
    finding = the_only(judge_driver(Nvidia(), "debian", wanted=False))
    assert finding.status == "not needed"
    assert "fine for a fleet on CPUs" in finding.found
    assert finding.advice == ()


def test_a_machine_without_gpu_cannot_serve_a_fleet_that_asks_for_one():
    finding = the_only(judge_driver(Nvidia(), "debian", wanted=True))
    assert finding.status == "failed"
    assert "no NVIDIA GPU" in finding.found


def test_a_gpu_without_driver_is_told_how_to_get_one_on_its_distribution():
    debian = the_only(judge_driver(Nvidia(hardware=True), "debian", wanted=True))
    redhat = the_only(judge_driver(Nvidia(hardware=True), "redhat", wanted=True))
    assert statuses([debian, redhat]) == ["failed", "failed"]
    assert any("apt-get" in step for step in debian.advice)
    assert not any("apt-get" in step for step in redhat.advice)
    assert any("dnf" in step for step in redhat.advice)


def test_nouveau_must_let_go_of_the_gpu_first():
    finding = the_only(judge_driver(Nvidia(hardware=True, nouveau=True), "debian", wanted=True))
    assert "nouveau" in finding.found
    assert "nouveau" in finding.advice[0]


def test_a_driver_upgraded_under_a_running_kernel_needs_a_reboot():
    told = "Failed to initialize NVML: Driver/library version mismatch"
    broken = Nvidia(hardware=True, loaded=True, program=True, problem=told)
    finding = the_only(judge_driver(broken, "debian", wanted=True))
    assert finding.status == "failed"
    assert finding.advice == ("sudo reboot",)


def test_a_driver_that_does_not_answer_is_told_in_its_own_words():
    told = "Unable to determine the device handle for GPU0000:17:00.0: Unknown Error"
    broken = Nvidia(hardware=True, loaded=True, program=True, problem=told)
    assert told in the_only(judge_driver(broken, "debian", wanted=True)).found


def test_a_driver_that_answers_is_ok():
    finding = the_only(judge_driver(with_gpus(plain_gpus()), "debian", wanted=True))
    assert (finding.status, finding.found) == ("ok", "driver 560.35.03, 2 GPUs")


# -- devices ---------------------------------------------------------------------------------


def healthy(gpu):
    return replace(
        gpu, persistence=True, ecc=True, uncorrectable_errors=0, repair_pending=False,
        compute_mode="Default",
    )  # fmt: skip


WELL = tuple(healthy(gpu) for gpu in plain_gpus())


def test_no_device_is_looked_at_where_no_server_asks_for_one():
    wishes = [Wish("local", (), GIB)]
    assert statuses(judge_devices(with_gpus(plain_gpus()), wishes)) == ["not needed"]


def test_a_capacity_that_fits_is_ok():
    assert statuses(judge_devices(with_gpus(WELL), [Wish("a", ("0",), 40 * GIB)])) == ["ok"]


def test_a_capacity_above_the_devices_memory_fails():
    finding = the_only(judge_devices(with_gpus(WELL), [Wish("a", ("0",), 48 * GIB)]))
    assert finding.status == "failed"
    assert "'a'" in finding.found
    assert "capacity" in finding.advice[0]


def test_servers_that_share_a_device_are_added_up_whatever_they_call_it():
    wishes = [Wish("a", ("0",), 30 * GIB), Wish("b", (WELL[0].uuid,), 30 * GIB)]
    finding = the_only(judge_devices(with_gpus(WELL), wishes))
    assert finding.status == "failed"
    assert "'a' and 'b'" in finding.found


def test_memory_that_others_hold_now_is_a_warning():
    assert statuses(judge_devices(with_gpus(WELL), [Wish("a", ("1",), 40 * GIB)])) == ["warning"]


def test_all_gpus_count_together():
    assert statuses(judge_devices(with_gpus(WELL), [Wish("a", "all", 55 * GIB)])) == ["ok"]
    assert statuses(judge_devices(with_gpus(WELL), [Wish("a", "all", 95 * GIB)])) == ["failed"]


def test_a_device_that_is_not_there_fails_and_tells_which_are():
    wish = Wish("a", ("MIG-0",), GIB)
    finding = the_only(judge_devices(with_gpus(sliced_gpus()), [wish]))
    assert finding.status == "failed"
    assert "0:1 = MIG-f6c30480-1419-5316-91d7-b32c06559be2" in finding.found


def test_everything_wrong_with_a_gpu_is_told():
    findings = judge_devices(with_gpus(plain_gpus()), [Wish("a", ("0",), GIB)])
    told = [finding.found for finding in findings if finding.status == "warning"]
    assert len(told) == 4
    for word in ("reset", "2 uncorrectable", "persistence", "ECC"):
        assert any(word in text for text in told), word


def test_errors_of_the_driver_are_told():
    xid = "NVRM: Xid (PCI:0000:17:00): 79, GPU has fallen off the bus."
    findings = judge_devices(with_gpus(WELL, xids=(xid,)), [Wish("a", ("0",), GIB)])
    assert statuses(findings) == ["ok", "warning"]
    assert xid in findings[-1].found


# -- MIG -------------------------------------------------------------------------------------


def test_the_layout_of_a_sliced_gpu_is_told():
    wish = Wish("a", ("0:0",), 10 * GIB)
    finding = the_only(judge_mig(with_gpus(sliced_gpus()), [wish]))
    assert finding.status == "ok"
    assert "3g.20gb (19.5 GiB), 1g.5gb" in finding.found


def test_a_sliced_gpu_cannot_be_had_as_a_whole():
    for wanted in ("0", sliced_gpus()[0].uuid):
        finding = the_only(judge_mig(with_gpus(sliced_gpus()), [Wish("a", (wanted,), GIB)]))
        assert finding.status == "failed"
        assert "MIG-e243b789-88dd-5d74-bf9e-74a65024ef0d" in finding.advice[0]


def test_mig_mode_without_a_slice_is_of_no_use():
    sliced, whole = sliced_gpus()
    empty = (replace(sliced, mig_devices=()), whole)
    finding = the_only(judge_mig(with_gpus(empty), [Wish("a", ("0",), GIB)]))
    assert finding.status == "failed"
    assert any("-cgi" in step for step in finding.advice)


def test_a_change_of_mode_that_waits_for_a_reset_is_told():
    sliced, whole = sliced_gpus()
    waiting = (sliced, replace(whole, mig_pending=True))
    findings = judge_mig(with_gpus(waiting), [Wish("a", ("1",), GIB)])
    assert statuses(findings) == ["ok", "failed"]


def test_gpus_that_nobody_slices_need_no_layout():
    assert statuses(judge_mig(with_gpus(WELL), [Wish("a", ("0",), GIB)])) == ["not needed"]


# -- MPS -------------------------------------------------------------------------------------


def test_processes_take_turns_where_there_is_no_mps():
    assert statuses(judge_mps(with_gpus(WELL), NO_MPS, [Wish("a", ("0",), GIB)])) == ["not needed"]


def test_an_exclusive_gpu_without_mps_is_a_warning():
    findings = judge_mps(with_gpus(plain_gpus()), NO_MPS, [Wish("a", ("1",), GIB)])
    assert statuses(findings) == ["warning"]


def test_an_exclusive_gpu_with_mps_wants_clients_of_it():
    nvidia = with_gpus(plain_gpus())
    outside = judge_mps(nvidia, MPS, [Wish("a", ("1",), GIB)])
    inside = judge_mps(nvidia, MPS, [Wish("a", ("1",), GIB, mps=True)])
    assert (statuses(outside), statuses(inside)) == (["failed"], ["ok"])


def test_a_daemon_with_its_pipes_elsewhere_is_a_warning():
    astray = replace(MPS, pipe_exists=False)
    assert statuses(judge_mps(with_gpus(WELL), astray, [Wish("a", ("0",), GIB)])) == ["warning"]


def test_a_client_of_mps_shares_memory_and_pipes():
    pipes = {"/tmp/nvidia-mps": "/tmp/nvidia-mps"}
    assert mps_client("host", pipes, "/tmp/nvidia-mps")
    assert not mps_client("private", pipes, "/tmp/nvidia-mps")
    assert not mps_client("host", {}, "/tmp/nvidia-mps")
