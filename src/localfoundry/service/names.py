"""Which cached version a name in a request stands for."""

from __future__ import annotations

import time

from localfoundry.catalog.lookup import Catalog
from localfoundry.errors import InvalidRequest, ModelNotCached, UnknownModel
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store

_FRESH_S = 0.05  # a name that is known is not looked up again for so long; one that is not, always
_MOST_RESOLVED = 1000  # spellings of names that are remembered


class Names:
    """Names of one store, remembered for as long as nothing in it changes: every request asks."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self.store = store
        self.catalog = catalog
        self._resolved: dict[str, Manifest] = {}  # of the store as it was at `_stamp`
        self._stamp: tuple[object, ...] = ()
        self._fresh_until = 0.0

    def resolve(self, name: str) -> Manifest:
        """The version that a name stands for: id, alias, other name, repository or imported path.

        Raises UnknownModel with the nearest names, ModelNotCached, InvalidRequest.
        """
        if not name:
            raise InvalidRequest("model is empty", param="model", hint="foundry model list")
        now = time.monotonic()
        if now < self._fresh_until and name in self._resolved:
            return self._resolved[name]
        self._fresh_until = now + _FRESH_S
        stamp = self.store.stamp()
        if stamp != self._stamp or len(self._resolved) > _MOST_RESOLVED:
            self._stamp = stamp
            self._resolved.clear()
        if name not in self._resolved:
            self._resolved[name] = self._find(name)
        return self._resolved[name]

    def _find(self, name: str) -> Manifest:
        found = self.store.find(name)
        if found is not None:
            return found
        entry = self.catalog.find(name)
        if entry is not None:
            model, variant = entry
            cached = self.store.find(variant.id if variant else model.alias)
            if cached is not None:
                return cached
            raise ModelNotCached(name)
        self.catalog.require(name)
        raise UnknownModel(f"no model is called {name}", param="model")
