"""How a newly published version of a model comes into service, and how the old one comes back.

While two versions are in memory, the one that serves is the model itself and the other a further
entry of the ledger (see ``versions``). A *swap* loads the new one beside the old, proves it, and
lets the two change places; where they do not fit together the requests are held while one leaves
and the other comes. A *canary* gets a share of the requests until it is promoted or rolled back.
What was replaced stays as an idle entry until its room is needed: until then the way back is short.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from tritonfleet.controller.endpoints import NoTraffic, Traffic
from tritonfleet.controller.ledger import Ledger, ModelFacts, Phase
from tritonfleet.controller.versions import entry_of, parts_of
from tritonfleet.errors import (
    FleetError,
    FleetSaturated,
    InvalidModelConfig,
    InvalidSpec,
    LoadFailed,
    ModelNotFound,
    ModelTooLarge,
    RolloutRefused,
)
from tritonfleet.server.layout import (
    CONFIG_NAME,
    MANIFEST_NAME,
    model_versions,
    read_manifest,
    replace_text,
)
from tritonfleet.server.pbtxt import parse_config, read_config
from tritonfleet.spec.traffic import RolloutSpec

log = logging.getLogger(__name__)
POLL_S = 1.0
"""Between two looks at whether the repository has changed."""
BESIDE_S = 10.0
"""How long a new version waits for room beside the old one before it takes the old one's."""
STATE_NAME = "rollouts.json"


class Fleet(Protocol):
    """What a rollout needs of the controller."""

    ledger: Ledger

    async def load(self, model: str, timeout_s: float | None = None) -> str:
        """Makes an entry READY."""

    async def unload(self, model: str, *, even_pinned: bool = False) -> None:
        """Returns once an entry has left memory."""

    async def loaded_versions(self, model: str) -> tuple[int, ...]:
        """The versions of a model that its server has READY, ascending."""

    def declare(self, facts: ModelFacts) -> None:
        """One more entry."""

    def retire(self, entry: str) -> None:
        """One entry less."""

    def exchange(self, entry: str, former: str) -> None:
        """A further version becomes the model itself."""

    def follow(self, entry: str, *, follows: bool) -> None:
        """Whether an entry is loaded beside its model whenever there is room."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a model's versions stand; what a restart must know."""

    stable: int | None = None
    """The version that the model itself is; None: the newest, whichever that is."""
    canary: int | None = None
    percent: float = 0.0
    former: int | None = None
    """What served before ``stable``: where a rollback goes."""
    untried: int | None = None
    """What to go back to if ``stable`` does not load: it has never yet."""
    failed: Mapping[int, str] = field(default_factory=dict)
    """Versions that did not come into service, with the reason, until a new one is published."""


class Rollouts:
    """The versions of every model of a fleet: which serves, and which is on trial.

    ``repository`` is watched where there is one. ``state`` is the file that survives a restart.
    """

    def __init__(
        self,
        repository: Path | None = None,
        *,
        rules: Callable[[str], RolloutSpec] = lambda _: RolloutSpec(strategy="manual"),
        state: Path | None = None,
        traffic: Traffic | None = None,
        watch: bool = True,
    ) -> None:
        self._repository, self._rules, self._state = repository, rules, state
        self._traffic, self._watching = traffic or NoTraffic(), watch
        self._standings: dict[str, Standing] = _read(state) if state else {}
        self._bases: dict[str, int] = {}
        self._splits: dict[str, tuple[int | None, int | None]] = {}
        self._shares: dict[str, float] = {}
        self._busy: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._saving = asyncio.Lock()
        self._fleet: Fleet

    async def attach(self, fleet: Fleet) -> None:
        """Takes up what an earlier process left: versions beside each other, and canaries."""
        self._fleet = fleet
        for model, standing in list(self._standings.items()):
            if not fleet.ledger.knows(model):
                del self._standings[model]
            elif standing.canary is not None and standing.stable is not None:
                self._bases[model] = standing.stable
                self._declare(model, standing.canary)
                await self._steer(model)

    def resume(self) -> None:
        """The servers are known: canaries that are not there may be loaded again."""
        for model, standing in self._standings.items():
            if standing.canary is not None:
                self._fleet.follow(entry_of(model, standing.canary), follows=True)

    # -- for the controller ------------------------------------------------------------------

    def choose_version(self, model: str) -> int | None:
        """The version that the model itself is loaded with now; None for what is published."""
        stable = self._standing(model).stable
        if stable is None and not self._fleet.ledger.versions_of(model):
            self._bases.pop(model, None)
            return None  # by far the most frequent case: no look at the disk
        versions = self._versions(model)
        self._bases[model] = stable if stable in versions else max(versions, default=stable or 0)
        return stable if stable in versions[:-1] else None

    def base_version(self, model: str) -> int | None:
        """The version that the model itself is, as far as that had to be known."""
        return self._bases.get(model)

    def pinned_version(self, model: str) -> str:
        """What a request that names no version must name; empty where the choice is Triton's."""
        stable, _ = self._splits.get(model, (None, None))
        return "" if stable is None else str(stable)

    async def adopted(self, model: str, versions: Iterable[int]) -> tuple[str, ...]:
        """The entries for what a server was found to hold of one model; the model itself first."""
        found = sorted(versions)
        if len(found) == 1 or not self._fleet.ledger.knows(model) or self._serves_several(model):
            return (model,)
        stable = self._standing(model).stable
        base = stable if stable in found else found[-1]
        self._bases[model] = base
        others = [version for version in found if version != base]
        for version in others:
            self._declare(model, version)
        await self._steer(model)
        return (model, *(entry_of(model, version) for version in others))

    async def config_of(self, model: str, version: int | None) -> Any | None:
        """The configuration that an earlier version was published with, where that is known."""
        if self._repository is None or version is None:
            return None
        return await asyncio.to_thread(_earlier_config, self._repository, model, version)

    async def appeared(self, entry: str) -> None:
        """An entry can be used: a canary gets its share."""
        model, version = parts_of(entry)
        standing = self._standing(model)
        if version is None and standing.untried is not None:
            await self._note(model, untried=None)
        if version is not None and version == standing.canary:
            await self._share(model, standing.percent)

    async def leaving(self, entry: str) -> None:
        """Returns once requests stay away from a further version of a model."""
        model, version = parts_of(entry)
        if version == self._standing(model).canary:
            await self._share(model, 0.0)

    async def fell_back(self, model: str, reason: str) -> bool:
        """A load failed; whether that was a version on trial, and another one is chosen now."""
        standing = self._standing(model)
        if standing.untried is None:
            return False
        broken = standing.stable or self._newest(model)
        log.error(
            "rollout model=%s version=%d failed, version=%d serves on: %s",
            model, broken, standing.untried, reason,
        )  # fmt: skip
        failed = {**standing.failed, broken: reason}
        await self._note(model, stable=standing.untried, untried=None, failed=failed)
        return True

    # -- for people --------------------------------------------------------------------------

    def status(self, model: str) -> dict[str, Any]:
        """The versions of a model and what happens with them; ModelNotFound for a foreign name."""
        self._known(model)
        standing, ledger = self._standing(model), self._fleet.ledger
        stable = standing.stable or self._newest(model) or None
        return {
            "model": model,
            "strategy": self._rules(model).strategy,
            "stable": stable,
            "canary": standing.canary,
            "percent": standing.percent if standing.canary else 0.0,
            "former": standing.former,
            "failed": {str(version): reason for version, reason in standing.failed.items()},
            "versions": [
                {
                    "version": version,
                    "state": _state(
                        ledger.phase(model if version == stable else entry_of(model, version))
                    ),
                }
                for version in self._versions(model)
            ],
        }

    async def start(
        self, model: str, version: int | None = None, percent: float | None = None
    ) -> None:
        """Brings a version into service, the newest if none is named.

        With ``percent``, or where the model's strategy says so, it gets a share first. A second
        call with the same version changes the share. RolloutRefused, or what its load ends in.
        """
        self._known(model)
        async with self._busy[model]:
            chosen = self._published(model, version)
            rule = self._rules(model)
            if percent is None and rule.strategy != "canary":
                await self._take_over(model, chosen)
            else:
                await self._try_out(model, chosen, rule.percent if percent is None else percent)

    async def promote(self, model: str) -> None:
        """The canary gets all requests and is the model from now on."""
        self._known(model)
        async with self._busy[model]:
            canary = self._canary(model)
            await self._share(model, 0.0)
            await self._take_over(model, canary)

    async def rollback(self, model: str, version: int | None = None) -> None:
        """A canary gets nothing any more; without one, what served before serves again."""
        self._known(model)
        async with self._busy[model]:
            standing = self._standing(model)
            if standing.canary is not None and version in (None, standing.stable):
                await self._end_canary(model, "rolled back")
                return
            target = version or standing.former
            if target is None:
                raise RolloutRefused(model, "no earlier version is known. Name one with --version.")
            left = await self._base(model) or standing.stable
            await self._take_over(model, self._published(model, target))
            if left is not None:
                # Or the next start of the fleet would bring it back.
                failed = {**self._standing(model).failed, left: "rolled back"}
                await self._note(model, failed=failed)

    # -- the repository changes ----------------------------------------------------------------

    async def watch(self) -> None:
        """Brings into service what is published, by each model's rule. Never ends."""
        if self._repository is None or not self._watching:
            return
        seen: tuple[int, int] | None = None
        known = await asyncio.to_thread(self._published_versions, {})
        await self._catch_up(known)
        while True:
            await asyncio.sleep(POLL_S)
            stamp = _stamp(self._repository / MANIFEST_NAME)
            if stamp == seen:
                continue
            seen, before = stamp, known
            known = await asyncio.to_thread(self._published_versions, before)
            for model, version in known.items():
                if version != before.get(model, version):
                    await self._supervised(model, self.arrived(model, before[model], version))

    async def _catch_up(self, published: Mapping[str, int]) -> None:
        for model, version in published.items():
            if self._fleet.ledger.knows(model):
                await self._supervised(model, self._catch_up_with(model, version))

    async def _catch_up_with(self, model: str, version: int) -> None:
        """What was published while nobody watched."""
        standing = self._standing(model)
        if self._rules(model).strategy == "manual" or version in standing.failed:
            return
        loaded = await self._fleet.loaded_versions(model)
        serving = loaded[-1] if loaded else standing.stable
        if serving not in (None, version) and standing.canary != version:
            await self.arrived(model, serving or version, version)

    async def _supervised(self, model: str, work: Awaitable[None]) -> None:
        try:
            await work
        except FleetError as error:
            log.error("rollout model=%s: %s", model, error)
        except Exception:  # a bug in one rollout must not end the watch over the others
            log.exception("the rollout of model=%s failed", model)

    async def arrived(self, model: str, before: int, version: int) -> None:
        """A new version of a model was published."""
        if not self._fleet.ledger.knows(model):
            return
        rule, standing = self._rules(model), self._standing(model)
        log.info("published model=%s version=%d rule=%s", model, version, rule.strategy)
        await self._note(model, failed={})
        if rule.strategy == "manual":
            await self._note(model, stable=standing.stable or before)
        elif rule.strategy == "swap" and self._fleet.ledger.phase(model) is None:
            # Whoever asks next gets it; if it does not load, what was there before serves on.
            await self._note(model, stable=None, untried=standing.stable or before)
        else:
            await self._note(model, stable=standing.stable or before)
            await self.start(model, version)

    def _published_versions(self, fallback: Mapping[str, int]) -> dict[str, int]:
        assert self._repository is not None
        try:
            models = read_manifest(self._repository).models
        except (InvalidSpec, OSError) as error:
            log.warning("cannot read the manifest: %s", error)
            return dict(fallback)
        return {name: entry.version for name, entry in models.items()}

    # -- steps of a rollout --------------------------------------------------------------------

    async def _take_over(self, model: str, version: int) -> None:
        """A version becomes the model; what was it stays beside it while there is room."""
        base = await self._base(model)
        if base is None:
            await self._replace_absent(model, version)
        elif base == version:
            raise RolloutRefused(model, f"version {version} serves already.")
        elif self._serves_several(model):
            await self._swap_held(model, base, None)
        elif not await self._changed_interface(model, base, version) and (
            await self._stands_beside(model, base, version)
        ):
            await self._change_places(model, base, version)
        else:
            await self._swap_held(model, base, version)
        log.info("rollout model=%s version=%d serves former=%s", model, version, base)

    async def _base(self, model: str) -> int | None:
        """The version in service; None if the model is not in memory."""
        if self._fleet.ledger.phase(model) is not Phase.READY:
            return None
        if not self._fleet.ledger.versions_of(model):
            loaded = await self._fleet.loaded_versions(model)
            if not loaded:
                return None
            self._bases[model] = loaded[-1]
        return self._bases.get(model)

    async def _replace_absent(self, model: str, version: int) -> None:
        standing = self._standing(model)
        former = standing.stable or standing.former
        await self._drop_versions(model)
        await self._note(
            model, stable=version, canary=None, percent=0.0, former=former, untried=former
        )
        await self._steer(model)

    async def _stands_beside(self, model: str, base: int, version: int) -> bool:
        """Loads a version beside the one in service; False where there is no room for both."""
        await self._note(model, stable=base)
        self._declare(model, version)
        await self._steer(model)
        try:
            await self._fleet.load(entry_of(model, version), BESIDE_S)
        except (ModelTooLarge, FleetSaturated) as error:
            log.info("rollout model=%s version=%d not beside: %s", model, version, error)
            return False
        except LoadFailed as error:
            await self._forsake(model, version, error.reason)
            raise
        entries = (model, entry_of(model, version))
        return all(map(self._fleet.ledger.is_proved, entries))

    async def _change_places(self, model: str, base: int, version: int) -> None:
        former = entry_of(model, base)
        self._bases[model] = version
        self._fleet.exchange(entry_of(model, version), former)
        self._set(model, stable=version, canary=None, percent=0.0, former=base)
        await self._steer(model)
        await self._save()
        if version < base and self._ensembles_over(model):
            # They take the highest version in memory, whatever we tell others.
            self._fleet.retire(former)

    async def _swap_held(self, model: str, base: int, version: int | None) -> None:
        """The old version leaves, the new one comes; requests wait meanwhile."""
        await self._drop_versions(model)
        await self._note(model, stable=version, canary=None, percent=0.0, former=base, untried=base)
        await self._steer(model)
        await self._fleet.unload(model, even_pinned=True)
        await self._fleet.load(model)
        reason = self._standing(model).failed.get(version or self._newest(model))
        if reason is not None:
            raise LoadFailed(f"{model} version {version}", reason)

    async def _try_out(self, model: str, version: int, percent: float) -> None:
        standing = self._standing(model)
        if standing.canary == version:
            await self._note(model, percent=percent)
            if self._fleet.ledger.is_proved(entry_of(model, version)):
                await self._share(model, percent)
            return
        self._check_canary(model, version)
        if self._serves_several(model):
            raise RolloutRefused(model, "its version_policy serves several versions at once.")
        base = await self._base(model) or standing.stable or self._previous(model, version)
        self._bases[model] = base
        if base == version:
            raise RolloutRefused(model, f"version {version} serves already.")
        if await self._changed_interface(model, base, version):
            cause = f"versions {base} and {version} take or give different tensors."
            raise RolloutRefused(model, f"{cause} Start it without a share.")
        await self._note(model, stable=base)
        self._declare(model, version)
        await self._steer(model, canary=version)
        await self._load_canary(model, version, percent)

    async def _changed_interface(self, model: str, one: int, other: int) -> bool:
        """Whether two versions cannot run with one configuration, as they must side by side."""
        assert self._repository is not None
        published = await asyncio.to_thread(read_config, self._repository, model)
        configs = [await self.config_of(model, each) or published for each in (one, other)]
        first, second = (_interface(config) for config in configs)
        return first != second

    async def _load_canary(self, model: str, version: int, percent: float) -> None:
        entry = entry_of(model, version)
        if self._fleet.ledger.phase(model) is Phase.READY:
            try:
                await self._fleet.load(entry)
            except FleetError as error:
                await self._forsake(model, version, str(error))
                raise
        await self._note(model, canary=version, percent=percent)
        self._fleet.follow(entry, follows=True)
        if self._fleet.ledger.is_proved(entry):
            await self.appeared(entry)

    def _check_canary(self, model: str, version: int) -> None:
        standing, ensembles = self._standing(model), self._ensembles_over(model)
        if standing.canary is not None:
            cause = f"version {standing.canary} is on trial. Promote it or roll it back first."
            raise RolloutRefused(model, cause)
        if ensembles:
            cause = f"'{ensembles[0]}' runs through it and would take version {version} at once."
            raise RolloutRefused(model, f"{cause} Start it without a share.")

    async def _end_canary(self, model: str, reason: str) -> None:
        version = self._canary(model)
        await self._share(model, 0.0)
        self._fleet.follow(entry_of(model, version), follows=False)
        failed = {**self._standing(model).failed, version: reason}
        await self._note(model, canary=None, percent=0.0, failed=failed)
        await self._steer(model)

    async def _forsake(self, model: str, version: int, reason: str) -> None:
        """A version that did not come into service is not tried again by itself."""
        log.error("rollout model=%s version=%d failed: %s", model, version, reason)
        failed = {**self._standing(model).failed, version: reason}
        await self._note(model, canary=None, percent=0.0, failed=failed)
        self._fleet.retire(entry_of(model, version))
        await self._steer(model)

    async def _drop_versions(self, model: str) -> None:
        for entry in self._fleet.ledger.versions_of(model):
            self._fleet.retire(entry)

    async def _steer(self, model: str, canary: int | None = None) -> None:
        """Tells the data plane which version answers requests that name none."""
        ledger = self._fleet.ledger
        beside = [parts_of(one)[1] or 0 for one in ledger.versions_of(model) if ledger.knows(one)]
        chosen = canary or self._standing(model).canary
        base = self._bases.get(model)
        # Triton takes the highest: it needs telling only where that is not the one in service.
        pinned = base if base is not None and any(version > base for version in beside) else None
        split = (pinned if chosen is None else base, chosen)
        if split != self._splits.get(model, (None, None)):
            self._splits[model] = split
            await self._traffic.split(model, *split)

    async def _share(self, model: str, percent: float) -> None:
        if self._shares.get(model) != percent:
            self._shares[model] = percent
            await self._traffic.share(model, percent)
            log.info("canary model=%s percent=%g", model, percent)

    # -- small facts ---------------------------------------------------------------------------

    def _declare(self, model: str, version: int) -> None:
        entry, ledger = entry_of(model, version), self._fleet.ledger
        if entry in ledger.versions_of(model):
            return
        # Triton may open the old version anew as well, because the folder has changed: for a
        # moment it holds that twice. What it takes in the end is measured.
        footprint, requires = 2 * ledger.footprint(model), (*ledger.members(model), model)
        self._fleet.declare(
            replace(
                ledger.facts(model),
                name=entry,
                footprint=footprint,
                requires=requires,
                version_of=model,
            )
        )

    def _serves_several(self, model: str) -> bool:
        """Whether the model's own configuration has versions beside each other."""
        if self._repository is None:
            return False
        policy = read_config(self._repository, model).version_policy
        return bool(
            policy.HasField("all")
            or policy.latest.num_versions > 1
            or len(policy.specific.versions) > 1
        )

    def _ensembles_over(self, model: str) -> tuple[str, ...]:
        ledger = self._fleet.ledger
        return tuple(name for name in ledger.names if model in ledger.members(name))

    def _standing(self, model: str) -> Standing:
        return self._standings.get(model, Standing())

    async def _note(self, model: str, **changes: Any) -> None:
        if self._set(model, **changes):
            await self._save()

    def _set(self, model: str, **changes: Any) -> bool:
        """Changes what is known of a model; False if it was known so already."""
        before = self._standing(model)
        self._standings[model] = replace(before, **changes)
        return self._standings[model] != before

    async def _save(self) -> None:
        if self._state is None:
            return
        async with self._saving:  # in turn, or what is older could come last
            text = json.dumps({name: asdict(one) for name, one in self._standings.items()})
            await asyncio.to_thread(replace_text, self._state, text + "\n")

    def _canary(self, model: str) -> int:
        canary = self._standing(model).canary
        if canary is None:
            raise RolloutRefused(model, "no version of it is on trial.")
        return canary

    def _published(self, model: str, version: int | None) -> int:
        versions = self._versions(model)
        chosen = version or (versions[-1] if versions else None)
        if chosen not in versions or chosen is None:
            known = ", ".join(map(str, versions)) or "none"
            raise RolloutRefused(model, f"version {version} is not published; there is {known}.")
        return chosen

    def _previous(self, model: str, version: int) -> int:
        earlier = [one for one in self._versions(model) if one < version]
        if not earlier:
            raise RolloutRefused(model, f"no version but {version} is published.")
        return earlier[-1]

    def _versions(self, model: str) -> tuple[int, ...]:
        return model_versions(self._repository / model) if self._repository else ()

    def _newest(self, model: str) -> int:
        return max(self._versions(model), default=0)

    def _known(self, model: str) -> None:
        if not self._fleet.ledger.knows(model) or parts_of(model)[1] is not None:
            raise ModelNotFound(model, self._fleet.ledger.names)


def _earlier_config(repository: Path, model: str, version: int) -> Any | None:
    with contextlib.suppress(InvalidSpec, InvalidModelConfig, UnicodeDecodeError):
        entry = read_manifest(repository).models.get(model)
        earlier = entry.earlier.get(version) if entry else None
        text = earlier.contents().get(CONFIG_NAME) if earlier else None
        return parse_config(model, text.decode()) if text else None
    return None


def _interface(config: Any) -> tuple[object, ...]:
    tensors = (*config.input, *config.output)
    return tuple((tensor.name, tensor.data_type, tuple(tensor.dims)) for tensor in tensors)


def recorded_splits(state: Path) -> dict[str, tuple[int, int | None]]:
    """For each model that needs it, the version that serves and the canary, as last recorded.

    For a data plane that is set up before the controller is: a canary must not get everything
    meanwhile, nor a version that was rolled back.
    """
    return {
        model: (one.stable, one.canary)
        for model, one in _read(state).items()
        if one.stable is not None and (one.canary or one.stable < (one.former or 0))
    }


def _state(phase: Phase | None) -> str:
    if phase is None:
        return "UNAVAILABLE"
    return "LOADING" if phase is Phase.RESERVED else phase.value


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _read(path: Path) -> dict[str, Standing]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {str(model): _standing(one) for model, one in data.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError):
        log.warning("ignoring damaged %s; the newest versions serve", path)
        return {}


def _standing(data: Mapping[str, Any]) -> Standing:
    failed = {int(version): str(reason) for version, reason in data.get("failed", {}).items()}
    return Standing(**{**data, "failed": failed})
