"""Who makes a request, and what that caller may do: a value that travels with the request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from localfoundry.access.keys import SCOPES, Key, Scope
from localfoundry.errors import ModelNotAllowed
from localfoundry.store.manifest import Manifest

ALL: frozenset[Scope] = frozenset(SCOPES)


@dataclass(frozen=True, slots=True)
class Caller:
    """`name` is that of the key, or what kind of caller it is without one. No `models`: every model."""

    name: str
    scopes: frozenset[Scope]
    key: Key | None = None

    @property
    def models(self) -> tuple[str, ...]:
        return self.key.models if self.key else ()

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes

    def permitted(self, name: str, resolve: Callable[[str], Manifest]) -> str:
        """The name under which this caller gets the model it asked for.

        For a caller that is limited to models it is the id of the version that was checked, so that a name which means
        another version a moment later does not slip through. Raises ModelNotAllowed, and what `resolve` raises.
        """
        if not self.models:
            return name
        manifest = resolve(name)
        if not self.covers(manifest):
            raise ModelNotAllowed(f"the API key {self.name} is not for the model {manifest.id}", param="model")
        return manifest.id

    def covers(self, manifest: Manifest) -> bool:
        """Whether one of the key's models is this version: by its id, by its name, or by its alias."""
        names = {manifest.id.lower(), manifest.name.lower(), manifest.alias.lower()}
        return not self.models or any(model.lower() in names for model in self.models)


LOCAL = Caller("local", ALL)  # anyone on this machine, where no key is required
OWNER = Caller("owner", ALL)  # this account's own command line
GUEST = Caller("anyone", frozenset({"inference"}))  # pages of allowed origins; with --insecure anyone at all
NOBODY = Caller("nobody", frozenset())
