"""Random fleets, clients, failures and deaths: what must hold whatever happens."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.controller.fleet import World, ledger
from tritonfleet.controller.ledger import ModelFacts, Phase, ServerFacts

TRACES = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@st.composite
def fleets(draw):
    """Plain models of several sizes and priorities, and ensembles over some of them."""
    count = draw(st.integers(2, 8))
    plain = [
        ModelFacts(
            f"m{i}",
            draw(st.integers(1, 6)),
            draw(st.integers(1, 10)),
            max_concurrency=draw(st.sampled_from([None, None, 1, 2])),
            queue_limit=draw(st.sampled_from([None, None, None, 3])),
        )
        for i in range(count)
    ]
    names = st.sampled_from([model.name for model in plain])
    members = st.lists(names, min_size=1, max_size=3, unique=True)
    ensembles = [
        ModelFacts(f"e{i}", 0, draw(st.integers(1, 10)), requires=tuple(draw(members)))
        for i in range(draw(st.integers(0, 3)))
    ]
    servers = [
        ServerFacts(
            f"gpu{i}",
            draw(st.integers(4, 14)),
            draw(st.integers(1, 3)),
            head_room=draw(st.sampled_from([0, 0, 1, 3])),
        )
        for i in range(draw(st.sampled_from([1, 1, 1, 2])))
    ]
    return [*plain, *ensembles], servers


def play(world, names, steps, draw_server):
    """Hundreds of clients come, work and go, in an order the seed decides; many go straight."""
    random, ticket = world.random, 0
    for _ in range(steps):
        choice = random.random()
        if choice < 0.45:
            ticket += 1
            model, patience = random.choice(names), random.uniform(0.1, 30)
            holds, batch = random.random() < 0.9, random.random() < 0.2
            world.request(ticket, model, patience=patience, holds=holds, batch=batch)
        elif choice < 0.65 and world.leases:
            world.leave(random.choice(sorted(world.leases)))
        elif choice < 0.70 and world.open:
            world.leave(random.choice(sorted(world.open)))
        elif choice < 0.72:
            draw_server(world)
        elif choice < 0.80 and world.published:
            world.go_straight(random.choice(sorted(world.published)))
        else:
            world.step()
    return ticket


def settle(world):
    """Everybody finishes, and the fleet comes to rest."""
    for _ in range(10_000):
        while world.leases:
            world.leave(min(world.leases))
        if not world.leases and not (world.open or world.pending):
            break
        if not world.step() and not world.leases:
            break
    assert not world.open, "somebody was stranded"
    assert not world.unproven & world.memory.keys(), "nobody has proved it"


@TRACES
@given(fleets(), st.integers(0, 2**32), st.sampled_from([0.0, 0.0, 0.2]))
def test_memory_leases_and_callers_are_safe_in_every_trace(fleet, seed, fail):
    models, servers = fleet
    book = ledger(models, servers=servers, patience_s=1.0, min_residency_s=0.5, fresh_s=0.05)
    world = World(book, seed=seed, fail=fail)

    def die(world):
        name = world.random.choice([server.name for server in servers])
        world.kill(name)
        world.take(book.server_back(name, world.now))

    play(world, [model.name for model in models], 150, die)
    settle(world)
    assert not world.leases


@TRACES
@given(fleets(), st.integers(0, 2**32))
def test_a_pinned_model_is_never_evicted(fleet, seed):
    models, servers = fleet
    book = ledger(models, servers=servers, patience_s=0.5)
    world = World(book, seed=seed)
    plain = min((m for m in models if not m.requires), key=lambda m: m.footprint)
    if plain.footprint > max(server.capacity for server in servers):
        return
    world.take(book.pin(plain.name, 0.0))
    world.run()
    if book.phase(plain.name) is not Phase.READY:
        return
    play(world, [model.name for model in models], 150, lambda _: None)
    settle(world)
    assert plain.name in world.memory


@TRACES
@given(fleets(), st.integers(0, 2**32))
def test_every_request_that_fits_is_served_when_callers_are_patient(fleet, seed):
    models, servers = fleet
    book = ledger(models, servers=servers[:1], patience_s=0.5, fresh_s=0.05)
    world = World(book, seed=seed)
    for ticket in range(60):
        world.request(ticket, world.random.choice(models).name, patience=1e6)
        while world.leases and world.random.random() < 0.5:
            world.leave(world.random.choice(sorted(world.leases)))
    settle(world)
    allowed = {"served", "ModelTooLarge", "QueueFull"}
    assert set(world.outcome.values()) <= allowed
    for ticket, outcome in world.outcome.items():
        if outcome == "QueueFull":
            assert any(model.queue_limit is not None for model in models), ticket


@TRACES
@given(fleets(), st.integers(0, 2**32))
def test_everybody_is_served_while_all_resident_models_are_used_without_a_pause(fleet, seed):
    models, servers = fleet
    # The same importance for all: nobody waits for the less important to be used up.
    models = [replace(model, priority=5, queue_limit=None) for model in models]
    book = ledger(models, servers=servers[:1], patience_s=0.5, min_residency_s=0.5, fresh_s=0.05)
    world = World(book, seed=seed)
    world.insistent = True
    for ticket in range(40):
        holds, batch = world.random.random() < 0.7, world.random.random() < 0.2
        name = world.random.choice(models).name
        world.request(ticket, name, patience=1e6, holds=holds, batch=batch)
    for _ in range(3_000):
        while world.leases:
            world.leave(min(world.leases))
        if not world.open:
            break
        world.step()
    assert not world.open, "somebody starved"
    assert set(world.outcome.values()) <= {"served", "ModelTooLarge"}


def change_versions(world):
    """Something that a rollout does: a version comes, takes over, follows its model, or goes."""
    book, random = world.ledger, world.random
    entries = [entry for name in book.names for entry in book.versions_of(name)]
    model = random.choice([name for name in book.names if not book.members(name)])
    version = 1 + max([0, *(int(entry.split("@")[1]) for entry in entries)])
    entry = random.choice(entries) if entries else None
    choice = random.random()
    if entry is None or choice < 0.3:
        facts = ModelFacts(f"{model}@{version}", random.randint(1, 4), requires=(model,),
                           version_of=model)  # fmt: skip
        world.take(book.declare(facts, world.now))
        world.changes += 1
        ticket, holds = 10_000 + world.changes, random.random() < 0.5
        world.request(ticket, facts.name, patience=5.0, holds=holds)
    elif choice < 0.6:
        if book.is_proved(entry) and book.is_proved(book.facts(entry).version_of):
            world.exchange(entry, f"{book.facts(entry).version_of}@{version}")
    elif choice < 0.8 and book.knows(entry):
        world.take(book.follow(entry, world.now))
    else:
        world.take(book.retire(entry, world.now))


@TRACES
@given(fleets(), st.integers(0, 2**32), st.sampled_from([0.0, 0.0, 0.2]))
def test_versions_may_come_and_go_and_change_places_at_any_time(fleet, seed, fail):
    models, servers = fleet
    book = ledger(models, servers=servers, patience_s=1.0, min_residency_s=0.5, fresh_s=0.05)
    world = World(book, seed=seed, fail=fail)

    def change(world):
        for _ in range(3):
            change_versions(world)

    play(world, [model.name for model in models], 200, change)
    settle(world)
    assert not world.leases
    assert set(book.names) == {model.name for model in models}


@TRACES
@given(fleets(), st.integers(0, 2**32))
def test_with_ample_memory_each_model_loads_once_and_nothing_is_evicted(fleet, seed):
    models, _ = fleet
    book = ledger(models, capacity=1000, patience_s=0.5)
    world = World(book, seed=seed)
    play(world, [model.name for model in models], 100, lambda _: None)
    settle(world)
    world.run()
    assert world.loads == len(world.memory)
    assert not any(decision.evicted for decision in book.decisions)


@TRACES
@given(fleets(), st.integers(0, 2**32), st.integers(1, 6))
def test_at_rest_the_head_room_is_free_but_for_what_was_loaded_last(fleet, seed, head_room):
    models, _ = fleet
    models = [model for model in models if not model.requires]
    facts = ServerFacts("gpu0", 12, 2, head_room=head_room)
    book = ledger(models, servers=[facts], patience_s=0.5, min_residency_s=0.5)
    world = World(book, seed=seed)
    play(world, [model.name for model in models], 100, lambda _: None)
    settle(world)
    world.run()
    newest = world.newest.get("gpu0")
    kept = book.footprint(newest) if newest in world.memory else 0
    assert book.promised("gpu0") <= max(facts.capacity - head_room, kept)


@TRACES
@given(fleets(), st.integers(0, 2**32))
def test_the_same_trace_gives_the_same_decisions(fleet, seed):
    models, servers = fleet

    def decisions():
        book = ledger(models, servers=servers, patience_s=1.0)
        world = World(book, seed=seed, fail=0.1)
        play(world, [model.name for model in models], 80, lambda _: None)
        return list(book.decisions)

    assert decisions() == decisions()
