from __future__ import annotations

from fleet_perf.peers.repository import write_fleet, write_repository
from tests.fleet_perf.peers.imitation import JOB
from tritonfleet.server.layout import model_versions, published_models
from tritonfleet.server.pbtxt import read_config
from tritonfleet.spec import load_fleet


def test_every_model_of_the_job_is_published_with_one_thread(tmp_path):
    write_repository(tmp_path, JOB)
    assert published_models(tmp_path) == (*JOB.names, *JOB.tiny_names)
    for name in published_models(tmp_path):
        config = read_config(tmp_path, name)
        assert (config.name, config.backend) == (name, "onnxruntime")
        assert config.parameters["intra_op_thread_count"].string_value == "1"
        assert config.instance_group[0].count == 1
        assert model_versions(tmp_path / name) == (1,)
        assert (tmp_path / name / "1" / "model.onnx").exists()


def test_the_fleet_file_has_room_for_just_so_many(tmp_path):
    write_fleet(tmp_path / "fleet.yaml", JOB.names, capacity=85, footprint=10)
    fleet = load_fleet(tmp_path / "fleet.yaml")
    assert tuple(fleet.models) == JOB.names
    assert fleet.servers[0].budget == 85
    assert {fleet.residency(name).footprint for name in JOB.names} == {10}
