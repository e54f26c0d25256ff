"""The ledger's rules one by one, as sequences of events and the actions they call for."""

from __future__ import annotations

from functools import partial

import pytest

from tests.controller import fleet
from tritonfleet.controller.ledger import (
    BACKOFF_FIRST_S,
    Drain,
    Grant,
    Ledger,
    Load,
    ModelFacts,
    Phase,
    Prove,
    Reject,
    ServerFacts,
    Unload,
)
from tritonfleet.errors import (
    FleetSaturated,
    LoadFailed,
    ModelNotFound,
    ModelTooLarge,
    PinRefused,
    QueueFull,
)

FAR = 1e9


class Unpublished(Ledger):
    """Keeps to itself which models can be reached directly: test_ledger_direct.py is for that."""

    def _publications(self):
        return iter(())


ledger = partial(fleet.ledger, kind=Unpublished)


def ask(book, ticket, model, now=0.0, deadline=FAR, holds=True):
    return book.request(ticket, model, now, deadline=deadline, holds=holds)


def make_ready(book, *models, now=0.0):
    """Loads models one by one, with nobody using them afterwards."""
    for number, model in enumerate(models):
        ask(book, 1000 + number, model, now, holds=False)
        for name in (*book._models[model].requires, model):
            book.loaded(name, now)
    assert all(book.phase(model) is Phase.READY for model in models)


def rejection(actions, kind):
    (action,) = [action for action in actions if isinstance(action, Reject)]
    assert isinstance(action.error, kind), action.error
    return action.error


def test_a_first_request_loads_and_is_granted_when_loaded():
    book = ledger({"bert": 4})
    assert ask(book, 1, "bert") == [Load("bert", "gpu0")]
    assert book.loaded("bert", 0.5) == [Grant(1, "bert", "gpu0", 0.5)]


def test_callers_of_one_model_join_a_single_load():
    book = ledger({"bert": 4})
    ask(book, 1, "bert")
    assert ask(book, 2, "bert") == []
    assert {action.ticket for action in book.loaded("bert", 1.0)} == {1, 2}


def test_a_resident_model_is_granted_at_once_without_a_wait():
    book = ledger({"bert": 4})
    make_ready(book, "bert")
    assert ask(book, 1, "bert", 5.0) == [Grant(1, "bert", "gpu0", 0.0)]


def test_a_load_starts_only_when_the_victims_memory_is_free():
    book = ledger({"bert": 6, "llm": 6})
    make_ready(book, "bert")
    assert ask(book, 1, "llm", 1.0) == [Drain("bert", "gpu0")]
    assert book.drained("bert", 1.0) == [Unload("bert", "gpu0")]
    assert book.phase("llm") is Phase.RESERVED
    assert book.unloaded("bert", 2.0) == [Load("llm", "gpu0")]


def test_a_model_in_use_is_not_drained_before_patience_runs_out():
    book = ledger({"bert": 6, "llm": 6}, patience_s=2.0)
    make_ready(book, "bert")
    ask(book, 1, "bert", 1.0)
    assert ask(book, 2, "llm", 1.0) == []
    assert book.expire(2.9) == []
    book.expire(3.0)
    assert book.phase("bert") is Phase.DRAINING
    assert book.release(1, 4.0) == [Drain("bert", "gpu0")]


def test_patience_does_not_drain_a_more_important_model():
    book = ledger([ModelFacts("vip", 6, 1), ModelFacts("llm", 6, 5)], patience_s=1.0)
    make_ready(book, "vip")
    ask(book, 1, "vip", 1.0)
    ask(book, 2, "llm", 1.0, deadline=9.0)
    assert book.expire(5.0) == []
    assert rejection(book.expire(9.0), FleetSaturated).retry_after_s >= 1


def test_requests_for_a_draining_model_wait_and_load_it_again():
    book = ledger({"bert": 6, "llm": 6})
    make_ready(book, "bert")
    ask(book, 1, "llm", 1.0)
    assert ask(book, 2, "bert", 1.0) == []
    book.drained("bert", 1.0)
    book.unloaded("bert", 1.0)
    book.loaded("llm", 2.0)
    actions = book.release(1, 3.0)
    assert actions == [Drain("llm", "gpu0")]


def test_a_caller_who_leaves_cancels_its_wait_but_never_the_load():
    book = ledger({"bert": 4})
    ask(book, 1, "bert")
    assert book.cancel(1, 0.1) == []
    assert book.phase("bert") is Phase.LOADING
    assert book.loaded("bert", 1.0) == []
    assert book.phase("bert") is Phase.READY


def test_a_caller_who_leaves_as_it_is_granted_gives_the_lease_back():
    book = ledger({"bert": 6, "llm": 6})
    ask(book, 1, "bert")
    book.loaded("bert", 1.0)
    book.cancel(1, 1.0)
    assert ask(book, 2, "llm", 2.0) == [Drain("bert", "gpu0")]


def test_room_reserved_for_a_caller_who_left_goes_to_others():
    book = ledger({"bert": 6, "llm": 6})
    make_ready(book, "bert")
    ask(book, 1, "llm", 1.0)
    book.cancel(1, 1.0)
    assert book.phase("llm") is None
    assert book.promised("gpu0") == 0


def test_a_young_model_stays_until_its_minimum_residency_ends():
    book = ledger({"bert": 6, "llm": 6}, min_residency_s=10.0)
    ask(book, 1, "bert", 0.0)
    book.loaded("bert", 1.0)
    book.release(1, 1.1)
    assert ask(book, 2, "llm", 2.0) == []
    assert book.next_wakeup(4.5) == 5.0
    assert book.expire(5.0) == [Drain("bert", "gpu0")]


def test_a_more_important_caller_need_not_wait_for_the_minimum_residency():
    book = ledger([ModelFacts("bert", 6, 5), ModelFacts("vip", 6, 1)], min_residency_s=10.0)
    ask(book, 1, "bert", 0.0)
    book.loaded("bert", 1.0)
    book.release(1, 1.1)
    assert ask(book, 2, "vip", 1.2) == [Drain("bert", "gpu0")]


def test_nobody_overtakes_a_caller_past_its_patience():
    book = ledger({"small": 3, "busy": 8, "large": 10}, patience_s=1.0)
    book._models["busy"] = ModelFacts("busy", 8, 1)
    make_ready(book, "busy")
    ask(book, 1, "busy", 0.0)
    ask(book, 2, "large", 0.0)
    assert book.expire(2.0) == []
    assert ask(book, 3, "small", 2.0) == []
    book.release(1, 3.0)
    book.drained("busy", 3.0)
    assert book.unloaded("busy", 3.0) == [Load("large", "gpu0")]


def test_at_most_so_many_loads_run_at_once():
    book = ledger({"a": 1, "b": 1, "c": 1}, servers=[ServerFacts("gpu0", 10, 2)])
    assert ask(book, 1, "a") + ask(book, 2, "b") == [Load("a", "gpu0"), Load("b", "gpu0")]
    assert ask(book, 3, "c") == []
    assert Load("c", "gpu0") in book.loaded("a", 1.0)


def test_a_failed_load_tells_every_waiter_and_backs_off():
    book = ledger({"bert": 4})
    ask(book, 1, "bert")
    assert "corrupt" in str(rejection(book.load_failed("bert", "corrupt file", 1.0), LoadFailed))
    error = rejection(ask(book, 2, "bert", 2.0), LoadFailed)
    assert error.retry_after_s == pytest.approx(BACKOFF_FIRST_S - 1.0)
    assert ask(book, 3, "bert", 1.0 + BACKOFF_FIRST_S) == [Load("bert", "gpu0")]


def test_the_back_off_doubles_with_each_failure_and_ends_with_a_success():
    book = ledger({"bert": 4})
    for now, pause in ((0.0, BACKOFF_FIRST_S), (100.0, 2 * BACKOFF_FIRST_S)):
        ask(book, 1, "bert", now)
        book.load_failed("bert", "broken", now)
        assert book.failure("bert", now).retry_after_s == pause
    ask(book, 2, "bert", 200.0)
    book.loaded("bert", 201.0)
    assert book.failure("bert", 201.0) is None


def test_an_explicit_load_does_not_wait_for_the_back_off():
    book = ledger({"bert": 4})
    ask(book, 1, "bert")
    book.load_failed("bert", "broken", 1.0)
    book.forgive("bert")
    assert ask(book, 2, "bert", 1.5, holds=False) == [Load("bert", "gpu0")]


def test_a_failed_load_leaves_the_others_where_they_are():
    book = ledger({"bert": 4, "vit": 4})
    make_ready(book, "vit")
    ask(book, 1, "bert", 1.0)
    book.load_failed("bert", "broken", 2.0)
    assert book.ready_on("vit") == "gpu0"


def test_an_unknown_model_is_refused_with_a_suggestion():
    error = rejection(ask(ledger({"bert": 4}), 1, "bret"), ModelNotFound)
    assert "Did you mean 'bert'?" in str(error)


def test_a_model_larger_than_every_server_is_refused_at_once():
    error = rejection(ask(ledger({"llm": 11}), 1, "llm"), ModelTooLarge)
    assert (error.footprint, error.largest) == (11, 10)


def test_pinned_models_count_against_what_can_ever_fit():
    book = ledger({"bert": 4, "llm": 8})
    book.pin("bert", 0.0)
    book.loaded("bert", 0.0)
    assert rejection(ask(book, 1, "llm", 1.0), ModelTooLarge).largest == 6


def test_a_pinned_model_is_loaded_and_never_a_victim():
    book = ledger({"bert": 6, "llm": 4, "vit": 4})
    assert book.pin("bert", 0.0) == [Load("bert", "gpu0")]
    book.loaded("bert", 0.0)
    make_ready(book, "llm", now=1.0)
    assert ask(book, 1, "vit", 2.0) == [Drain("llm", "gpu0")]


def test_a_pin_that_could_not_hold_is_refused():
    book = ledger({"bert": 6, "llm": 6})
    book.pin("bert", 0.0)
    with pytest.raises(PinRefused, match="Unpin another model"):
        book.pin("llm", 0.0)


def test_a_pinned_model_comes_back_after_its_load_failed():
    book = ledger({"bert": 4})
    book.pin("bert", 0.0)
    book.load_failed("bert", "hiccup", 1.0)
    retry = book.next_wakeup(1.0)
    assert book.expire(retry) == [Load("bert", "gpu0")]


def test_unloading_a_pinned_model_is_refused():
    book = ledger({"bert": 4})
    book.pin("bert", 0.0)
    book.loaded("bert", 0.0)
    with pytest.raises(PinRefused, match="unpin bert"):
        book.unload("bert", 1.0)


def test_an_unload_waits_for_the_requests_in_flight():
    book = ledger({"bert": 4})
    ask(book, 1, "bert")
    book.loaded("bert", 1.0)
    assert book.unload("bert", 2.0) == []
    assert book.release(1, 3.0) == [Drain("bert", "gpu0")]


def test_an_unload_during_the_load_happens_right_after_it():
    book = ledger({"bert": 4})
    ask(book, 1, "bert", holds=False)
    book.cancel(1, 0.0)
    book.unload("bert", 0.1)
    assert book.loaded("bert", 1.0) == [Drain("bert", "gpu0")]


def test_members_load_before_their_ensemble_and_leave_after_it():
    book = ledger([ModelFacts("encoder", 6), ModelFacts("search", 0, requires=("encoder",))])
    assert ask(book, 1, "search") == [Load("encoder", "gpu0")]
    assert book.loaded("encoder", 1.0) == [Load("search", "gpu0")]
    book.loaded("search", 2.0)
    book.release(1, 3.0)
    assert book.unload("encoder", 4.0) == [Drain("search", "gpu0")]
    book.drained("search", 4.0)
    assert book.unloaded("search", 4.0) == [Drain("encoder", "gpu0")]


def test_a_member_of_an_ensemble_in_use_is_no_victim():
    book = ledger(
        [
            ModelFacts("encoder", 6),
            ModelFacts("search", 0, requires=("encoder",)),
            ModelFacts("llm", 6),
        ]
    )
    make_ready(book, "search")
    ask(book, 1, "search", 1.0)
    assert ask(book, 2, "llm", 1.0) == []
    (view,) = [view for view in book.residents(1.0) if view.model == "encoder"]
    assert view.stays_because == "needed by search, which is in use"


def test_a_use_of_an_ensemble_keeps_its_members_recent():
    book = ledger(
        [
            ModelFacts("encoder", 5),
            ModelFacts("search", 0, requires=("encoder",)),
            ModelFacts("vit", 5),
            ModelFacts("llm", 5),
        ]
    )
    make_ready(book, "search", now=0.0)
    make_ready(book, "vit", now=1.0)
    ask(book, 1, "search", 2.0)
    book.release(1, 3.0)
    assert ask(book, 2, "llm", 4.0) == [Drain("vit", "gpu0")]


def test_a_failing_member_fails_the_callers_of_its_ensemble():
    book = ledger([ModelFacts("encoder", 6), ModelFacts("search", 0, requires=("encoder",))])
    ask(book, 1, "search")
    error = rejection(book.load_failed("encoder", "corrupt", 1.0), LoadFailed)
    assert "search failed to load: its member encoder: corrupt" in str(error)
    assert book.phase("search") is None


def test_a_model_measured_larger_makes_others_leave():
    book = ledger({"bert": 4, "vit": 4})
    make_ready(book, "vit", now=0.0)
    make_ready(book, "bert", now=1.0)
    assert book.measured("bert", 8, 1.0) == [Drain("vit", "gpu0")]


def test_a_model_measured_smaller_makes_room():
    book = ledger({"bert": 8, "vit": 4})
    make_ready(book, "bert")
    book.measured("bert", 3, 1.0)
    assert ask(book, 1, "vit", 2.0) == [Load("vit", "gpu0")]


def test_a_dead_servers_models_come_back_with_it_and_waiters_stay():
    book = ledger({"bert": 4, "vit": 4})
    make_ready(book, "bert")
    ask(book, 1, "vit", 1.0)
    assert book.server_lost("gpu0", 2.0) == []
    assert book.occupied("gpu0") == 0
    actions = book.server_back("gpu0", 3.0)
    assert {action.model for action in actions} == {"bert", "vit"}


def test_events_of_a_dead_server_that_come_late_are_ignored():
    book = ledger({"bert": 4})
    ask(book, 1, "bert")
    book.server_lost("gpu0", 1.0)
    assert book.loaded("bert", 2.0) == book.unloaded("bert", 2.0) == []
    assert book.phase("bert") is None


def test_a_model_the_server_lost_is_loaded_again_on_demand():
    book = ledger({"bert": 4})
    make_ready(book, "bert")
    book.observed({}, ["bert"], 1.0, as_of=0.9)
    assert ask(book, 1, "bert", 2.0) == [Load("bert", "gpu0")]


def test_a_model_loaded_after_the_server_was_asked_is_not_lost():
    book = ledger({"bert": 4})
    make_ready(book, "bert", now=1.0)
    book.observed({}, ["bert"], 1.2, as_of=0.9)
    assert book.ready_on("bert") == "gpu0"


def test_what_an_unloading_model_gives_back_early_makes_room():
    book = ledger({"bert": 8, "llm": 6})
    make_ready(book, "bert")
    ask(book, 1, "llm", 1.0)
    book.drained("bert", 1.0)
    assert book.shrunk("bert", 3, 1.1) == [Load("llm", "gpu0")]
    assert book.measured("bert", 8, 1.2) == []
    assert book.occupied("gpu0") == 9


def test_uses_seen_by_the_server_count_as_uses():
    book = ledger({"bert": 5, "vit": 5, "llm": 5})
    make_ready(book, "bert", now=0.0)
    make_ready(book, "vit", now=1.0)
    book.observed({"bert": 7.0}, [], 8.0, as_of=8.0)
    assert ask(book, 1, "llm", 9.0) == [Drain("vit", "gpu0")]


def test_no_more_requests_run_at_once_than_the_model_allows():
    book = ledger([ModelFacts("bert", 4, max_concurrency=1)])
    make_ready(book, "bert")
    assert len(ask(book, 1, "bert", 1.0)) == 1
    assert ask(book, 2, "bert", 1.0) == []
    assert book.release(1, 2.0) == [Grant(2, "bert", "gpu0", 1.0)]


def test_no_more_callers_wait_than_the_model_allows():
    book = ledger([ModelFacts("bert", 4, queue_limit=1)])
    ask(book, 1, "bert")
    assert "1 requests wait" in str(rejection(ask(book, 2, "bert"), QueueFull))


def test_a_model_found_on_a_server_is_taken_over():
    book = ledger({"bert": 4})
    book.adopt("bert", "gpu0", 0.0)
    assert ask(book, 1, "bert", 1.0) == [Grant(1, "bert", "gpu0", 0.0)]


def test_decisions_remember_who_left_and_why_the_others_stayed():
    book = ledger({"bert": 5, "vit": 5, "llm": 5})
    make_ready(book, "bert", now=0.0)
    make_ready(book, "vit", now=1.0)
    ask(book, 9, "vit", 2.0)
    ask(book, 1, "llm", 3.0)
    decision = book.decisions[-1]
    assert (decision.model, decision.evicted) == ("llm", ("bert",))
    assert dict(decision.kept) == {"vit": "in use by 1"}


# -- proof by whoever waits ----------------------------------------------------------------------


def opened(book, ticket, model, now=0.0):
    """Somebody asks for a model, and Triton has opened it for them."""
    ask(book, ticket, model, now)
    assert book.is_awaited(model)
    return book.loaded(model, now, proved=False)


def test_a_caller_gets_an_opened_model_before_anybody_has_proved_it():
    book = ledger({"bert": 4})
    assert opened(book, 1, "bert") == [Grant(1, "bert", "gpu0", 0.0)]
    assert not book.is_proved("bert")
    assert book.answered(1, 1.0) == []
    assert book.is_proved("bert")


def test_a_model_that_has_not_answered_yet_is_no_victim_whatever_the_patience():
    book = ledger({"bert": 8, "llm": 8}, patience_s=1.0)
    opened(book, 1, "bert")
    assert ask(book, 2, "llm", 1.0) == []
    assert book.expire(100.0) == []
    assert book.answered(1, 101.0) == []
    assert book.release(1, 102.0) == [Drain("bert", "gpu0")]


def test_a_model_whose_callers_left_without_an_answer_is_proved_for_its_own_sake():
    book = ledger({"bert": 8, "llm": 8})
    opened(book, 1, "bert")
    assert book.release(1, 1.0) == [Prove("bert", "gpu0")]
    assert ask(book, 2, "llm", 2.0) == []
    assert book.proved("bert", 3.0) == [Drain("bert", "gpu0")]


def test_an_answer_without_a_lease_proves_nothing():
    book = ledger({"bert": 4})
    opened(book, 1, "bert")
    book.release(1, 1.0)
    assert book.answered(1, 2.0) == []
    assert not book.is_proved("bert")


def test_a_proof_that_fails_counts_as_a_failed_load():
    book = ledger({"bert": 4})
    opened(book, 1, "bert")
    book.release(1, 1.0)
    book.load_failed("bert", "nobody answers", 2.0)
    assert book.phase("bert") is None
    assert "nobody answers" in str(rejection(ask(book, 2, "bert", 3.0), LoadFailed))


def test_failures_in_a_row_count_although_each_load_went_well():
    book, now = ledger({"bert": 4}), 0.0
    for _ in range(3):
        opened(book, 1, "bert", now)
        book.release(1, now)
        book.load_failed("bert", "nobody answers", now)
        pause = book.failure("bert", now).retry_after_s
        now += pause
    assert pause == 4 * BACKOFF_FIRST_S


def test_a_failure_after_a_proof_is_no_failed_load():
    book = ledger({"bert": 4})
    opened(book, 1, "bert")
    book.answered(1, 1.0)
    assert book.load_failed("bert", "too late", 2.0) == []
    assert book.ready_on("bert") == "gpu0"


ENSEMBLE = [ModelFacts("a", 2), ModelFacts("b", 2), ModelFacts("both", 0, requires=("a", "b"))]


def open_ensemble(book):
    ask(book, 1, "both")
    for name in ("a", "b", "both"):
        assert book.is_awaited(name)
        book.loaded(name, 0.0, proved=False)


def test_an_answer_of_an_ensemble_proves_its_members():
    book = ledger(ENSEMBLE)
    open_ensemble(book)
    book.answered(1, 1.0)
    assert all(book.is_proved(name) for name in ("a", "b", "both"))


def test_an_ensemble_that_answered_nobody_is_proved_once_for_all_its_members():
    book = ledger(ENSEMBLE)
    open_ensemble(book)
    assert book.release(1, 1.0) == [Prove("both", "gpu0")]
    book.proved("both", 2.0)
    assert all(book.is_proved(name) for name in ("a", "b", "both"))


def test_members_of_an_ensemble_that_failed_its_proof_are_proved_each():
    book = ledger(ENSEMBLE)
    open_ensemble(book)
    book.release(1, 1.0)
    assert book.load_failed("both", "broken", 2.0) == [Prove("a", "gpu0"), Prove("b", "gpu0")]


def test_a_member_that_fails_its_proof_takes_its_ensembles_along():
    book = ledger(ENSEMBLE)
    opened(book, 1, "a")
    assert book.release(1, 0.0) == [Prove("a", "gpu0")]
    ask(book, 2, "both")
    book.loaded("b", 0.0, proved=False)
    actions = book.load_failed("a", "broken", 1.0)
    assert "its member a: broken" in str(rejection(actions, LoadFailed))
    assert book.phase("both") is None


def test_an_unload_of_an_unproven_model_waits_for_its_answer():
    book = ledger({"bert": 4})
    opened(book, 1, "bert")
    assert book.unload("bert", 1.0) == []
    assert book.answered(1, 2.0) == []
    assert book.release(1, 3.0) == [Drain("bert", "gpu0")]


def test_a_pin_withdraws_an_unload_that_has_not_begun():
    book = ledger({"bert": 4})
    opened(book, 1, "bert")
    book.unload("bert", 1.0)
    book.pin("bert", 1.5)
    book.answered(1, 2.0)
    assert book.release(1, 3.0) == []
    assert book.ready_on("bert") == "gpu0"


def test_a_model_that_may_have_killed_its_server_does_not_come_back_by_itself():
    book = ledger({"bert": 4, "vit": 4})
    make_ready(book, "vit")
    opened(book, 1, "bert")
    book.server_lost("gpu0", 1.0)
    assert book.server_back("gpu0", 2.0) == [Load("vit", "gpu0")]


def test_a_model_told_larger_while_it_opens_is_charged_at_once():
    book = ledger({"bert": 4, "vit": 4})
    ask(book, 1, "bert")
    book.measured("bert", 7, 0.5)
    assert book.occupied("gpu0") == 7
    assert ask(book, 2, "vit", 1.0) == []


# -- head-room -----------------------------------------------------------------------------------


def roomy(models, head_room=3, **options):
    return ledger(models, servers=[ServerFacts("gpu0", 10, head_room=head_room)], **options)


def test_the_longest_idle_leaves_ahead_of_need_and_the_log_says_why():
    book = roomy({"bert": 4, "vit": 4})
    make_ready(book, "bert", now=0.0)
    ask(book, 1, "vit", 1.0)
    assert book.loaded("vit", 2.0) == [Grant(1, "vit", "gpu0", 1.0), Drain("bert", "gpu0")]
    decision = book.decisions[-1]
    assert (decision.model, decision.evicted) == ("", ("bert",))
    assert "keeps 3 B free" in decision.reason
    assert dict(decision.kept) == {"vit": "in use by 1"}


def test_what_was_loaded_last_is_never_evicted_for_head_room():
    book = roomy({"llm": 9})
    ask(book, 1, "llm")
    book.loaded("llm", 1.0)
    assert book.release(1, 2.0) == []
    assert book.expire(1e6) == []


def test_no_head_room_is_made_at_the_cost_of_models_in_use_pinned_or_unproven():
    book = roomy({"busy": 3, "pinned": 3, "fresh": 3})
    make_ready(book, "busy", "pinned")
    book.pin("pinned", 0.0)
    ask(book, 1, "busy", 0.0)
    ask(book, 2, "fresh", 1.0)
    assert book.loaded("fresh", 2.0, proved=False) == [Grant(2, "fresh", "gpu0", 1.0)]


def test_a_young_model_gives_way_to_head_room_only_when_its_time_is_up():
    book = roomy(
        [ModelFacts("bert", 4, 9), ModelFacts("vit", 4, 9)], min_residency_s=10.0, patience_s=0.0
    )
    for name, now in (("bert", 4.0), ("vit", 5.0)):
        ask(book, 1, name, 0.0, holds=False)
        book.loaded(name, now)
    assert book.next_wakeup(6.0) == 14.0
    assert book.expire(13.9) == []
    assert book.expire(14.0) == [Drain("bert", "gpu0")]


def test_callers_may_use_the_head_room():
    book = roomy({"bert": 5, "vit": 5})
    make_ready(book, "bert")
    assert ask(book, 1, "vit", 1.0) == [Load("vit", "gpu0")]


def test_what_nobody_asks_for_does_not_come_back_into_the_head_room():
    book = roomy({"bert": 6, "vit": 1})
    make_ready(book, "bert")
    make_ready(book, "vit", now=1.0)
    book.server_lost("gpu0", 2.0)
    book.measured("bert", 7, 3.0)
    assert book.server_back("gpu0", 4.0) == [Load("vit", "gpu0")]


# -- loads beside what is leaving ------------------------------------------------------------------


def test_a_load_starts_beside_a_victim_that_still_drains_where_both_fit():
    book = ledger({"bert": 4, "vit": 4, "llm": 5})
    make_ready(book, "bert", "vit")
    ask(book, 1, "bert", 1.0)
    book.unload("bert", 2.0)
    book.unload("vit", 2.0)
    book.drained("vit", 2.0)
    assert ask(book, 2, "llm", 3.0) == []
    assert book.unloaded("vit", 4.0) == [Load("llm", "gpu0")]
    assert book.phase("bert") is Phase.DRAINING


def test_a_model_measured_smaller_lets_the_next_load_begin_beside_a_victim():
    book = ledger({"bert": 5, "vit": 5, "llm": 5})
    make_ready(book, "bert", now=0.0)
    make_ready(book, "vit", now=1.0)
    assert ask(book, 1, "llm", 2.0) == [Drain("bert", "gpu0")]
    book.drained("bert", 2.0)
    assert book.measured("vit", 0, 3.0) == [Load("llm", "gpu0")]
