# SPDX-License-Identifier: Apache-2.0
"""Offers one mutated state after another to the agent's own check, download and admission, and counts the answers.

The device runs the first bundle, and the director orders just that. A check may end in three ways: it refuses;
it returns the order that was signed (the mutation was none, or in a file that nobody needs); or it returns any other
order, or an error that the port does not promise. The third kind is what must not be.
"""

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.network.https import ServerConnection
from device_agent.adapters.verification.download import BundleDownloads
from device_agent.adapters.verification.trust import TufTrust
from device_agent.admission.checks import admit
from device_agent.core.orders.release_orders import Order
from device_agent.core.serving import AdmissionRequest, ModelRef
from device_agent.errors import TrustRefusedError
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.messages import RunningRelease
from fleet_emulation.hostile_server.mutations import BUNDLE, METADATA
from fleet_emulation.hostile_server.site import DEVICE, OTHER_DEVICE, Files, HostileSite

#: Of all offers, so many are mutated metadata, whole files in wrong places, and bundles.
_SHARES = {"metadata": 0.6, "misplaced": 0.15, "bundle": 0.25}


@dataclass
class Tally:
    """What became of all offers; ``harm`` says in words what must not have been."""

    offers: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    without_effect: int = 0
    activated: int = 0
    crashes: int = 0
    harm: list[str] = field(default_factory=list)

    def harmed(self, words: str) -> None:
        """Note a harm; the first ones are enough to find the rest."""
        self.harm = [*self.harm, words][:20]


class Offers:
    """One device's view of a hostile site."""

    def __init__(self, site: HostileSite, folder: Path, seed: int) -> None:
        self._site = site
        self._chance = random.Random(seed)
        self._folder = DataFolder(folder)
        self._kept = folder.with_name(f"{folder.name}-kept")
        site.enrol(self._folder)
        ca, certificate, key = self._folder.ca, self._folder.certificate, self._folder.key
        self._connection = ServerConnection(site.url, ca=ca, certificate=certificate, key=key)
        self._downloads = BundleDownloads(self._folder.downloads, self._connection, reserve_bytes=0)
        self._fresh = self._keep("fresh", None)
        self._older = self._keep("older", site.history[0])
        self._newest = self._keep("newest", site.good)
        self.order = self._check(self._fresh)
        self.tally = Tally()

    def offer(self, count: int) -> Iterator[Tally]:
        """Make that many offers, and say after each how things stand."""
        kinds, weights = list(_SHARES), list(_SHARES.values())
        for _ in range(count):
            self.tally.offers += 1
            kind = self._chance.choices(kinds, weights)[0]
            getattr(self, f"_offer_{kind}")()
            self._site.mutated = {}
            yield self.tally

    # ------------------------------------------------------------------ metadata

    def _offer_metadata(self) -> None:
        name, mutate = self._chance.choice(list(METADATA.items()))
        path = self._chance.choice([p for p in self._site.good if p.endswith(".json")])
        mutated = mutate(self._site.good[path], self._chance)
        if self._chance.random() < 0.1:  # offered as a new root
            path = self._chance.choice(["/image/metadata/2.root.json", f"/director/{DEVICE}/metadata/2.root.json"])
        self._try(f"{name}", {path: mutated})

    def _offer_misplaced(self) -> None:
        kind = self._chance.choice(
            ["other-role", "other-repository", "other-device", "replay", "replay-all", "missing"]
        )
        good, chance = self._site.good, self._chance
        path, other = chance.sample(sorted(good), 2)
        old = chance.choice(self._site.history[:-1])
        state: Files
        if kind == "other-device":
            mine, its = f"/director/{DEVICE}/", f"/director/{OTHER_DEVICE}/"
            state = {name.replace(its, mine): data for name, data in self._site.others.items()}
        elif kind == "replay":
            state = {path: next((data for name, data in old.items() if _role(name) == _role(path)), good[other])}
        elif kind == "replay-all":
            state = old
        elif kind == "missing":
            state = {path: b""}
        else:
            state = {path: good[other]}
        self._try(kind, state)

    def _try(self, kind: str, state: Files) -> None:
        """Offer a state to a device that knows nothing yet, or an older state; a replay to one that knows this one."""
        self.tally.kinds[kind] += 1
        self._site.mutated = state
        trusted = self._newest if kind.startswith("replay") else self._chance.choice([self._fresh, self._older])
        try:
            order = self._check(trusted)
        except TrustRefusedError as error:
            self.tally.refused[error.cause] += 1
        except EdgeFleetError as error:
            self.tally.refused[error.code] += 1
        except Exception as error:  # noqa: BLE001  just this must not happen
            self.tally.crashes += 1
            self.tally.harmed(f"{kind} in {min(state)}: {type(error).__name__}: {error}"[:500])
        else:
            self._judge(kind, state, order)

    def _judge(self, kind: str, state: Files, order: Order) -> None:
        if order == self.order:
            self.tally.without_effect += 1
        else:
            self.tally.activated += 1
            self.tally.harmed(f"{kind} in {min(state)}: {order}"[:500])

    def _check(self, trusted: Path) -> Order:
        shutil.rmtree(self._folder.trust)
        shutil.copytree(trusted, self._folder.trust, symlinks=True)
        return TufTrust(self._folder, self._folder.read_identity(), self._connection).check(0)

    def _keep(self, name: str, state: Files | None) -> Path:
        """Keep the trusted folder as it is after a check of a state (None: as enrolment leaves it)."""
        if state is not None:
            self._site.mutated = {} if state is self._site.good else state
            TufTrust(self._folder, self._folder.read_identity(), self._connection).check(0)
            self._site.mutated = {}
        kept = self._kept / name
        shutil.copytree(self._folder.trust, kept, symlinks=True)
        return kept

    # ------------------------------------------------------------------ bundles

    def _offer_bundle(self) -> None:
        """On its way a mutated bundle must be refused; and where its hash were believed, admission must have a word."""
        name, mutate = self._chance.choice(list(BUNDLE.items()))
        self.tally.kinds[f"bundle-{name}"] += 1
        target = self.order.wanted[0].target
        path = f"/image/targets/{target.path}"
        good = self._site.content[path]
        mutated = mutate(good, self._chance)
        if self._chance.random() < 0.05:
            mutated = next(data for where, data in self._site.content.items() if where != path)
        self._site.mutated = {path: mutated}
        try:
            self._downloads.fetch(target, lambda: False)
        except EdgeFleetError as error:
            self.tally.refused[error.code] += 1
        else:
            self._fetched(name, mutated == good)
        shutil.rmtree(self._folder.downloads)
        if mutated != good:
            self._admit(name, mutated)

    def _fetched(self, name: str, unchanged: bool) -> None:
        if unchanged:
            self.tally.without_effect += 1
        else:
            self.tally.activated += 1
            self.tally.harmed(f"a bundle with {name} was taken")

    def _admit(self, name: str, mutated: bytes) -> None:
        path = self._folder.root / "mutated.bundle"
        path.write_bytes(mutated)
        release = RunningRelease(name="digits", version="1.0.0", bundle_sha256=self.order.wanted[0].target.sha256)
        request = AdmissionRequest(
            model=ModelRef(path=str(path), release=release),
            profile=self._site.bundles[0].manifest.profile.id,
            compat_hash=self.order.wanted[0].compat_hash,
            latency_runs=1,
        )
        try:
            verdict = admit(request)
        except EdgeFleetError as error:
            self.tally.refused[f"admission-{error.code}"] += 1
        except Exception as error:  # noqa: BLE001  just this must not happen
            self.tally.crashes += 1
            self.tally.harmed(f"bundle {name} in admission: {type(error).__name__}: {error}"[:500])
        else:
            self.tally.refused[f"admission-{verdict.cause}"] += 1
            if verdict.kind == "passed":
                self.tally.activated += 1
                self.tally.harmed(f"a bundle with {name} passed admission under another hash")


def _role(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/{name.lstrip('0123456789.')}"
