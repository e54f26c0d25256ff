"""Models that are reached without a lease: published, seen in use, withdrawn before they leave."""

from __future__ import annotations

import pytest

from tests.controller.fleet import ledger
from tests.controller.test_ledger import ask, make_ready, rejection
from tritonfleet.controller.ledger import (
    BATCH_PATIENCE,
    LOOK_AGAIN_S,
    Drain,
    Grant,
    Load,
    Look,
    ModelFacts,
    Phase,
    Prove,
    Publish,
    ServerFacts,
    Unload,
    Withdraw,
)
from tritonfleet.errors import ModelNotFound

GPU0 = ["gpu0"]


def seen(book, now, *, used=None, **in_flight):
    """What a look finds: who has how many requests under way."""
    return book.observed(used or {}, [], now, as_of=now, in_flight=in_flight, looked_at=GPU0)


# -- published and withdrawn -----------------------------------------------------------------------


def test_a_model_is_published_once_it_has_answered_and_not_before():
    book = ledger({"bert": 4})
    ask(book, 1, "bert")
    assert book.loaded("bert", 1.0, proved=False) == [Grant(1, "bert", "gpu0", 1.0)]
    assert book.answered(1, 2.0) == [Publish("bert", "gpu0")]
    assert book.release(1, 3.0) == []


def test_a_model_that_was_found_on_a_server_is_published():
    assert ledger({"bert": 4}).adopt("bert", "gpu0", 0.0) == [Publish("bert", "gpu0")]


def test_a_model_that_failed_its_proof_was_never_published():
    book = ledger({"bert": 4})
    ask(book, 1, "bert")
    book.loaded("bert", 1.0, proved=False)
    assert book.release(1, 2.0) == [Prove("bert", "gpu0")]
    assert book.load_failed("bert", "nobody answers", 3.0) == []


def test_what_its_server_took_along_is_withdrawn():
    book = ledger({"bert": 4})
    make_ready(book, "bert")
    assert book.server_lost("gpu0", 1.0) == [Withdraw("bert", "gpu0")]
    assert book.server_back("gpu0", 2.0) == [Load("bert", "gpu0")]
    assert book.loaded("bert", 3.0) == [Publish("bert", "gpu0")]


def test_a_model_that_its_server_lost_is_withdrawn():
    book = ledger({"bert": 4})
    make_ready(book, "bert")
    assert book.observed({}, ["bert"], 2.0, as_of=1.0) == [Withdraw("bert", "gpu0")]


def test_a_model_that_drains_when_its_server_dies_is_withdrawn_all_the_same():
    book = ledger({"bert": 4})
    make_ready(book, "bert")
    assert book.unload("bert", 1.0) == [Drain("bert", "gpu0")]
    assert book.server_lost("gpu0", 2.0) == [Withdraw("bert", "gpu0")]


def test_a_member_that_fails_takes_the_way_to_its_ensemble_with_it():
    book = ledger([ModelFacts("a", 2), ModelFacts("both", 0, requires=("a",))])
    make_ready(book, "both")
    book.observed({}, ["a", "both"], 2.0, as_of=1.0)
    assert book.phase("both") is None
    assert book.residents(2.0) == ()


# -- what is in use ------------------------------------------------------------------------------


def test_nobody_leaves_on_old_news():
    book = ledger({"bert": 6, "llm": 6}, fresh_s=0.05)
    make_ready(book, "bert")
    assert ask(book, 1, "llm", 1.0) == [Look(("gpu0",))]
    assert seen(book, 1.01) == [Drain("bert", "gpu0")]


def test_nobody_looks_where_room_is_free():
    book = ledger({"bert": 4, "llm": 4}, fresh_s=0.05)
    make_ready(book, "bert")
    assert ask(book, 1, "llm", 1.0) == [Load("llm", "gpu0")]


def test_news_that_is_fresh_serves_for_the_next_decision():
    book = ledger({"bert": 5, "vit": 5, "llm": 5}, fresh_s=0.05)
    make_ready(book, "bert", "vit")
    seen(book, 1.0)
    assert ask(book, 1, "llm", 1.04) == [Drain("bert", "gpu0")]


def test_one_look_serves_all_who_wait():
    book = ledger({"bert": 6, "llm": 6, "vit": 6}, fresh_s=0.05)
    make_ready(book, "bert")
    assert ask(book, 1, "llm", 1.0) == [Look(("gpu0",))]
    assert ask(book, 2, "vit", 1.0) == []


def test_a_look_that_took_long_is_still_good_for_its_decision():
    book = ledger({"bert": 6, "llm": 6}, fresh_s=0.05)
    make_ready(book, "bert")
    ask(book, 1, "llm", 1.0)
    late = book.observed({}, [], 3.0, as_of=1.0, in_flight={}, looked_at=GPU0)
    assert late == [Drain("bert", "gpu0")]


def test_requests_under_way_are_a_use_and_the_next_look_comes_soon():
    book = ledger({"bert": 6, "llm": 6}, fresh_s=0.05, patience_s=2.0)
    make_ready(book, "bert")
    ask(book, 1, "llm", 1.0)
    assert seen(book, 1.0, bert=2) == []
    assert book.residents(1.0)[0].stays_because == "2 requests under way"
    again = book.next_wakeup(1.0)
    assert again == pytest.approx(1.0 + LOOK_AGAIN_S)
    assert book.expire(again) == [Look(("gpu0",))]
    assert seen(book, again) == [Drain("bert", "gpu0")]


def test_a_caller_past_its_patience_drains_a_model_with_requests_under_way():
    book = ledger({"bert": 6, "llm": 6}, fresh_s=0.05, patience_s=2.0)
    make_ready(book, "bert")
    ask(book, 1, "llm", 1.0)
    seen(book, 1.0, bert=2)
    assert book.expire(3.0) == [Look(("gpu0",))]
    assert seen(book, 3.0, bert=2) == [Drain("bert", "gpu0")]


def test_requests_under_way_in_an_ensemble_are_a_use_of_its_members():
    models = [ModelFacts("a", 6), ModelFacts("both", 0, requires=("a",)), ModelFacts("llm", 6)]
    book = ledger(models, fresh_s=0.05)
    make_ready(book, "both")
    ask(book, 1, "llm", 1.0)
    assert seen(book, 1.0, both=1) == []
    (member,) = [view for view in book.residents(1.0) if view.model == "a"]
    assert member.stays_because == "needed by both, which is in use"


def test_a_use_of_an_ensemble_that_was_only_seen_keeps_its_members_recent():
    models = [
        ModelFacts("a", 5),
        ModelFacts("both", 0, requires=("a",)),
        ModelFacts("vit", 5),
        ModelFacts("llm", 5),
    ]
    book = ledger(models)
    make_ready(book, "both", now=0.0)
    make_ready(book, "vit", now=1.0)
    seen(book, 2.0, used={"both": 2.0})
    assert Drain("vit", "gpu0") in ask(book, 1, "llm", 3.0)


def test_models_on_a_server_that_are_not_of_the_fleet_are_passed_over():
    assert seen(ledger({"bert": 4}), 1.0, used={"stranger": 1.0}, stranger=1) == []


def test_what_was_not_counted_is_as_it_was():
    book = ledger({"bert": 6, "llm": 6})
    make_ready(book, "bert")
    seen(book, 1.0, bert=1)
    book.observed({}, [], 2.0, as_of=2.0)
    assert ask(book, 1, "llm", 2.0) == []


def test_no_head_room_is_made_on_old_news():
    book = ledger(
        {"bert": 4, "vit": 4},
        servers=[ServerFacts("gpu0", 10, head_room=3)],
        fresh_s=0.05,
    )
    make_ready(book, "bert", now=0.0)
    ask(book, 1, "vit", 1.0)
    assert book.loaded("vit", 2.0)[-1] == Look(("gpu0",))
    assert seen(book, 2.0, bert=1) == []


def test_a_server_that_died_is_not_looked_at():
    servers = [ServerFacts("gpu0", 6), ServerFacts("gpu1", 6)]
    book = ledger({"bert": 6, "vit": 6, "llm": 6}, servers=servers, fresh_s=0.05)
    make_ready(book, "bert", "vit")
    book.server_lost("gpu1", 1.0)
    assert ask(book, 1, "llm", 1.0) == [Look(("gpu0",))]


# -- state between requests ------------------------------------------------------------------------


def test_a_model_that_may_hold_a_sequence_stays_until_that_has_run_out():
    book = ledger([ModelFacts("speech", 6, state_idle_s=5.0), ModelFacts("llm", 6)], patience_s=1.0)
    make_ready(book, "speech")
    seen(book, 2.0, used={"speech": 2.0})
    assert ask(book, 1, "llm", 2.5) == []
    assert "state of a sequence" in book.residents(2.5)[0].stays_because
    assert book.expire(6.0) == []
    assert book.next_wakeup(6.0) == 7.0
    assert book.expire(7.0) == [Drain("speech", "gpu0")]


def test_even_a_more_important_caller_waits_for_the_end_of_a_sequence():
    book = ledger([ModelFacts("speech", 6, 9, state_idle_s=5.0), ModelFacts("vip", 6, 1)])
    make_ready(book, "speech", now=1.0)
    assert ask(book, 1, "vip", 2.0) == []


# -- classes -------------------------------------------------------------------------------------


def test_a_batch_caller_is_placed_after_the_interactive_ones():
    book = ledger({"busy": 6, "offline": 6, "live": 6})
    make_ready(book, "busy")
    ask(book, 1, "busy", 0.0)
    book.request(2, "offline", 0.0, deadline=1e9, batch=True)
    ask(book, 3, "live", 1.0)
    book.release(1, 1.5)
    assert book.phase("live") is Phase.RESERVED
    assert book.phase("offline") is None


def test_a_batch_caller_who_has_waited_long_is_served_like_the_others():
    book = ledger({"busy": 6, "offline": 6, "live": 6}, patience_s=1.0)
    book._models["busy"] = ModelFacts("busy", 6, 1)
    make_ready(book, "busy")
    ask(book, 1, "busy", 0.0)
    book.request(2, "offline", 0.0, deadline=1e9, batch=True)
    assert BATCH_PATIENCE in [book.next_wakeup(1.5)]
    ask(book, 3, "live", BATCH_PATIENCE)
    book.release(1, BATCH_PATIENCE + 0.1)
    assert book.phase("offline") is Phase.RESERVED


def test_an_interactive_caller_gets_a_limited_model_before_batch_callers():
    book = ledger([ModelFacts("bert", 4, max_concurrency=1)])
    make_ready(book, "bert")
    ask(book, 1, "bert", 0.0)
    book.request(2, "bert", 0.0, deadline=1e9, batch=True)
    ask(book, 3, "bert", 1.0)
    assert [action.ticket for action in book.release(1, 1.5)] == [3]


# -- versions beside each other --------------------------------------------------------------------


def beside(book, version, footprint=4, now=1.0):
    """A further version of 'bert', loaded beside it and proved."""
    name = f"bert@{version}"
    book.declare(ModelFacts(name, footprint, requires=("bert",), version_of="bert"), now)
    ask(book, 900, name, now, holds=False)
    book.loaded(name, now)
    assert book.phase(name) is Phase.READY
    return name


def test_a_version_beside_is_counted_and_leaves_before_its_model():
    book = ledger({"bert": 4, "llm": 6})
    make_ready(book, "bert")
    entry = beside(book, 2)
    assert book.promised("gpu0") == 8
    assert book.names == ("bert", "llm")
    assert book.unload("bert", 2.0) == [Drain(entry, "gpu0")]


def test_a_version_that_is_idle_leaves_by_itself_when_its_room_is_needed():
    book = ledger({"bert": 4, "llm": 6})
    make_ready(book, "bert")
    entry = beside(book, 2)
    seen(book, 2.0, used={"bert": 2.0})
    assert ask(book, 1, "llm", 3.0) == [Drain(entry, "gpu0")]


def test_versions_that_change_places_keep_their_memory_their_holders_and_who_waits():
    book = ledger({"bert": 4})
    make_ready(book, "bert")
    ask(book, 1, "bert", 0.5)
    entry = beside(book, 2, footprint=5)
    ask(book, 2, entry, 1.5)
    book.exchanged(entry, "bert@1", 2.0)
    assert (book.footprint("bert"), book.footprint("bert@1")) == (5, 4)
    assert {view.model: view.leases for view in book.residents(2.0)} == {"bert": 1, "bert@1": 1}
    assert book.versions_of("bert") == ("bert@1",)
    assert book.unload("bert@1", 2.5) == []
    assert book.release(1, 3.0) == [Drain("bert@1", "gpu0")]


def test_a_version_that_follows_its_model_comes_back_with_it_where_room_is_to_spare():
    book = ledger({"bert": 4, "llm": 5})
    make_ready(book, "bert")
    entry = beside(book, 2)
    book.follow(entry, 1.0)
    book.unload("bert", 2.0)
    for name in (entry, "bert"):
        book.drained(name, 2.0)
        book.unloaded(name, 2.0)
    ask(book, 1, "bert", 3.0)
    assert Load(entry, "gpu0") in book.loaded("bert", 4.0)


def test_a_version_that_follows_its_model_displaces_nobody():
    book = ledger({"bert": 4, "llm": 5})
    make_ready(book, "bert", "llm")
    book.declare(ModelFacts("bert@2", 4, requires=("bert",), version_of="bert"), 1.0)
    assert book.follow("bert@2", 1.0) == []
    assert book.unfollow("bert@2", 2.0) == []


def test_an_entry_that_is_retired_leaves_memory_and_then_the_fleet():
    book = ledger({"bert": 4})
    make_ready(book, "bert")
    entry = beside(book, 2)
    assert book.retire(entry, 2.0) == [Drain(entry, "gpu0")]
    assert rejection(ask(book, 1, entry, 2.0), ModelNotFound)
    assert book.drained(entry, 2.0) == [Unload(entry, "gpu0")]
    book.unloaded(entry, 3.0)
    assert book.versions_of("bert") == ()
    assert not book.knows(entry)


def test_who_waits_for_an_entry_that_is_retired_is_told():
    book = ledger({"bert": 4})
    make_ready(book, "bert")
    book.declare(ModelFacts("bert@2", 4, requires=("bert",), version_of="bert"), 1.0)
    ask(book, 1, "bert@2", 1.0)
    assert rejection(book.retire("bert@2", 2.0), ModelNotFound)


def test_an_entry_declared_anew_while_it_leaves_stays_in_the_fleet():
    book = ledger({"bert": 4})
    make_ready(book, "bert")
    entry = beside(book, 2)
    book.retire(entry, 2.0)
    book.declare(ModelFacts(entry, 4, requires=("bert",), version_of="bert"), 2.5)
    book.drained(entry, 3.0)
    book.unloaded(entry, 3.0)
    assert book.knows(entry)


def test_a_pinned_model_that_must_make_way_for_its_successor_comes_back():
    book = ledger({"bert": 4})
    book.pin("bert", 0.0)
    book.loaded("bert", 0.0)
    assert book.unload("bert", 1.0, even_pinned=True) == [Drain("bert", "gpu0")]
    book.drained("bert", 1.0)
    assert book.unloaded("bert", 2.0) == [Load("bert", "gpu0")]
