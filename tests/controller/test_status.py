"""What people are told of a fleet: every model with the reason for its state."""

from __future__ import annotations

from tests.controller.fleet import ledger
from tritonfleet.controller.ledger import ModelFacts, ServerFacts
from tritonfleet.controller.status import explain, fleet_status

UP = {"gpu0": {"http": "127.0.0.1:1", "grpc": "127.0.0.1:2"}}


def reasons(book, now):
    return {
        model["name"]: (model["state"], model["reason"])
        for model in fleet_status(book, now, {}, UP)["models"]
    }


def swapped():
    """A fleet in which 'llm' has displaced 'bert' while 'vit' was in use."""
    book = ledger({"bert": 5, "vit": 5, "llm": 5, "new": 1})
    for ticket, name in enumerate(("bert", "vit")):
        book.request(ticket, name, 0.0, deadline=1e9)
        book.loaded(name, 1.0)
    book.release(0, 2.0)
    book.request(9, "llm", 3.0, deadline=1e9)
    return book


def test_each_model_says_why_it_is_where_it_is():
    book = swapped()
    told = reasons(book, 4.0)
    assert told["bert"] == ("UNLOADING", "draining")
    assert told["vit"] == ("READY", "in use by 1")
    assert told["llm"][0] == "LOADING"
    assert told["new"] == ("UNAVAILABLE", "not asked for yet")


def test_an_evicted_model_says_when_for_whom_and_why():
    book = swapped()
    book.drained("bert", 3.0)
    book.unloaded("bert", 4.0)
    expected = "evicted 2 s ago for llm: idle longest for its priority; frees 5 B"
    assert reasons(book, 5.0)["bert"] == ("UNAVAILABLE", expected)


def test_a_model_that_stayed_says_what_saved_it():
    book = swapped()
    book.release(1, 5.0)
    expected = "stayed 3 s ago when bert left: in use by 1"
    assert reasons(book, 6.0)["vit"] == ("READY", expected)


def test_an_unload_on_request_is_no_eviction():
    book = ledger({"bert": 5})
    book.request(1, "bert", 0.0, deadline=1e9, holds=False)
    book.loaded("bert", 1.0)
    book.unload("bert", 2.0)
    book.drained("bert", 2.0)
    book.unloaded("bert", 3.0)
    assert reasons(book, 4.0)["bert"][1] == "left 2 s ago: unloaded on request"


def test_a_failed_model_says_why():
    book = ledger({"bert": 5})
    book.request(1, "bert", 0.0, deadline=1e9)
    book.load_failed("bert", "corrupt file", 1.0)
    assert reasons(book, 2.0)["bert"][1] == "failed to load: corrupt file"


def test_requests_that_take_no_lease_are_told_as_last_seen():
    book = ledger({"bert": 5})
    book.adopt("bert", "gpu0", 0.0)
    book.observed({}, [], 1.0, as_of=1.0, in_flight={"bert": 3})
    (model,) = fleet_status(book, 2.0, {}, UP)["models"]
    assert (model["in_use"], model["under_way"]) == (0, 3)
    assert model["reason"] == "3 requests under way"


def test_a_version_beside_is_told_with_its_model_and_not_as_one():
    book = ledger({"bert": 4})
    book.adopt("bert", "gpu0", 0.0)
    book.declare(ModelFacts("bert@2", 4, requires=("bert",), version_of="bert"), 1.0)
    (model,) = fleet_status(book, 2.0, {}, UP)["models"]
    assert model["versions_beside"] == [{"version": 2, "state": "UNAVAILABLE"}]


def test_servers_show_their_sums_and_addresses():
    book = ledger([ModelFacts("bert", 4)])
    book.request(1, "bert", 0.0, deadline=1e9)
    (server,) = fleet_status(book, 0.0, {}, UP)["servers"]
    assert (server["occupied_bytes"], server["budget_bytes"], server["up"]) == (4, 10, True)
    assert server["http"] == "127.0.0.1:1"
    assert fleet_status(book, 0.0, {}, {})["servers"][0]["up"] is False


def test_decisions_about_a_model_are_told_newest_first():
    told = explain(swapped(), "llm", 4.0)
    assert [(entry["model"], entry["evicted"]) for entry in told] == [("llm", ["bert"])]
    assert told[0]["kept"] == {"vit": "in use by 1"}
    assert [entry["model"] for entry in explain(swapped(), "bert", 4.0)] == ["llm", "bert"]


def test_a_model_that_has_yet_to_answer_says_so():
    book = ledger({"bert": 5})
    book.request(1, "bert", 0.0, deadline=1e9)
    book.loaded("bert", 1.0, proved=False)
    assert reasons(book, 2.0)["bert"] == ("READY", "in use by 1")
    book.release(1, 2.0)
    assert reasons(book, 2.0)["bert"] == ("READY", "has yet to show that it answers")
    book.load_failed("bert", "nobody answers", 3.0)
    assert reasons(book, 4.0)["bert"] == ("UNAVAILABLE", "failed to load: nobody answers")


def test_a_model_that_left_for_head_room_says_so():
    book = ledger(
        [ModelFacts("bert", 5), ModelFacts("vit", 5)],
        servers=[ServerFacts("gpu0", 10, head_room=3)],
    )
    for ticket, name in enumerate(("bert", "vit")):
        book.request(ticket, name, float(ticket), deadline=1e9, holds=False)
        book.loaded(name, ticket + 0.5)
    book.drained("bert", 2.0)
    book.unloaded("bert", 2.0)
    expected = "left 2 s ago: idle longest; keeps 3 B free for the next load"
    assert reasons(book, 3.5)["bert"] == ("UNAVAILABLE", expected)
