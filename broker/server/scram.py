"""SCRAM logins: whose password makes which keys, verified off the loop, and the credentials that administrators set.

A user whose password the configuration has as text may log in by it: the keys are made of it when they are first
needed (`protocol.sasl.scram` has the mechanism), and made anew when the configuration is read again. Everybody else,
and who is to have another password for it, needs credentials (KIP-554): they are kept in the store's catalog until
they are deleted, or their user is.

Who does not exist is answered like everybody else and fails at the end: salts are made of the name and a secret of this
broker, and every failure costs one derivation of keys.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Final, NamedTuple

import trio

from broker.config.secret import Secret
from broker.core import catalog
from broker.core.access import User
from broker.log.store import Store
from broker.server.auth import Authenticator, LoginRefused
from protocol.sasl.scram import HASHES, Credential, Exchange, MalformedScram, parse_client_first

log = logging.getLogger("jackalope.auth")

SALT_OCTETS: Final = 16
NONCE_OCTETS: Final = 18
"""Of chance; their base64 is 24 characters without padding."""

Key = tuple[str, str]
"""A user's name and a mechanism."""


class Shown(NamedTuple):
    """What of a user's credentials may be told."""

    mechanism: str
    iterations: int


class Scram:
    """See the module. `iterations` is for keys that are made here.

    `password_of` gives the password of a user where it is known as text: another object whenever it was set anew.
    """

    __slots__ = (
        "_authenticator", "_derived", "_iterations", "_making", "_password_of", "_random_bytes", "_secret", "_set",
        "_store",
    )  # fmt: skip

    def __init__(
        self,
        authenticator: Authenticator,
        store: Store,
        iterations: int,
        password_of: Callable[[str], Secret | None],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._random_bytes = random_bytes
        self._authenticator = authenticator
        self._password_of = password_of
        self._store = store
        self._iterations = iterations
        if catalog.SCRAM_SECRET not in store.catalog:
            store.put(catalog.SCRAM_SECRET, random_bytes(32))
        self._secret = store.catalog[catalog.SCRAM_SECRET]
        self._making: dict[Key, trio.Event] = {}
        self._derived: dict[Key, tuple[Secret, Credential]] = {}
        self._set: dict[Key, Credential] = dict(_stored(store))

    # Credentials.

    def set(self, name: str, mechanism: str, credential: Credential) -> None:
        """Who logs in with this mechanism has to prove this; durable with the frame that is being filled."""
        self._set[name, mechanism] = credential
        self._store.put(_key(name, mechanism), catalog.value(credential._asdict(), {}))

    def has_set(self, name: str, mechanism: str) -> bool:
        """Whether there is a credential that was set."""
        return (name, mechanism) in self._set

    def delete(self, name: str, mechanism: str) -> None:
        """A credential that was set goes; what can be made of a password holds again."""
        del self._set[name, mechanism]
        self._store.delete(_key(name, mechanism))

    def forget_others(self, users: Collection[str]) -> None:
        """Only these users exist: the next one of another name is not to be who had the name before."""
        for name, mechanism in [key for key in self._set if key[0] not in users]:
            self.delete(name, mechanism)

    def shown(self, name: str) -> list[Shown]:
        """By what the user can log in."""
        found = []
        for mechanism in HASHES:
            credential = self._set.get((name, mechanism))
            if credential is not None:
                found.append(Shown(mechanism, credential.iterations))
            elif self._password_of(name) is not None:
                found.append(Shown(mechanism, self._iterations))
        return found

    # Logging in.

    def begin(self, mechanism: str, message: bytes) -> Exchange:
        """The client's first message has come. Raises LoginRefused for one that is malformed."""
        try:
            first = parse_client_first(message)
        except MalformedScram as error:
            raise LoginRefused(f"{mechanism}: {error}") from None
        nonce = base64.b64encode(self._random_bytes(NONCE_OCTETS))
        credential = self._set.get((first.name, mechanism))
        if credential is not None:
            return Exchange(mechanism, first, nonce, credential.salt, credential.iterations)
        iterations, octets = self._iterations, SALT_OCTETS
        if self._set and self._password_of(first.name) is None:
            # Who has no credential looks like somebody who has: the same one each time.
            shapes = [(iterations, octets), *((one.iterations, len(one.salt)) for one in self._set.values())]
            iterations, octets = shapes[int.from_bytes(self._octets("shape", first.name, 8), "big") % len(shapes)]
        return Exchange(mechanism, first, nonce, self._octets(mechanism, first.name, octets), iterations)

    def _octets(self, purpose: str, name: str, count: int) -> bytes:
        """Octets that are always the same for a name, and say nothing to who has not the secret."""
        key = hmac.digest(self._secret, f"{purpose}\0{name}".encode(), "sha256")
        return hashlib.shake_256(key).digest(count)

    def finish_nowait(self, exchange: Exchange, message: bytes, peer_host: str) -> User | None:
        """The user who has proved it by the final message; None when `finish` must be asked. Raises LoginRefused."""
        proof = _proof(exchange, message)
        self._authenticator.check_failures(exchange.name, peer_host)
        credential = self._known(exchange.name, exchange.mechanism)
        if credential is None or not exchange.proves(proof, credential):
            return None
        exchange.end(credential)
        return self._authenticator.admit(exchange.name, peer_host)

    async def finish(self, exchange: Exchange, message: bytes, peer_host: str) -> User:
        """The same where keys have to be made, and of every failure. Raises LoginRefused."""
        name, mechanism = exchange.name, exchange.mechanism
        proof = _proof(exchange, message)
        authenticator = self._authenticator
        is_awaited = self._password_of(name) is not None and self._known(name, mechanism) is None
        if is_awaited:
            await self._make_once(name, mechanism)
            authenticator.check_failures(name, peer_host)  # Whoever waited beside this one may have guessed.
        # Charged before a wait and given back after, so that a thousand guesses at once do not all pass the check.
        authenticator.charge(name, peer_host)
        if not is_awaited:
            await self._make(name, mechanism)
        credential = self._known(name, mechanism)
        if credential is None or not exchange.proves(proof, credential):
            why = "wrong password or no such user" if credential is not None else "no such user, or no credentials"
            raise LoginRefused(f"user {name!r} from {peer_host}: {mechanism}: {why}")
        authenticator.charge(name, peer_host, -1.0)
        exchange.end(credential)
        return authenticator.admit(name, peer_host)

    async def _make_once(self, name: str, mechanism: str) -> None:
        """Make the keys of a password, or wait until they are made for somebody else.

        A service that starts again logs in a hundred times at once, and none of them has failed yet.
        """
        key = name, mechanism
        while (making := self._making.get(key)) is not None:
            await making.wait()
            if self._known(name, mechanism) is not None:
                return
        making = self._making[key] = trio.Event()
        try:
            await self._make(name, mechanism)
        finally:
            del self._making[key]
            making.set()

    async def _make(self, name: str, mechanism: str) -> None:
        """Make keys in a thread, also where there is nothing to make them of: time must not tell."""
        secret = self._password_of(name)
        password = b"" if secret is None else secret.reveal().encode()
        salt = self._octets(mechanism, name, SALT_OCTETS)
        derive = partial(Credential.of_password, HASHES[mechanism], password, salt, self._iterations)
        made = await trio.to_thread.run_sync(derive, limiter=self._authenticator.threads)
        if secret is not None and self._password_of(name) is secret:  # It may have changed in the meantime.
            self._keep((name, mechanism), secret, made)

    def _known(self, name: str, mechanism: str) -> Credential | None:
        credential = self._set.get((name, mechanism))
        if credential is not None:
            return credential
        secret, derived = self._derived.get((name, mechanism), (None, None))
        return derived if secret is not None and self._password_of(name) is secret else None

    def _keep(self, key: Key, secret: Secret, credential: Credential) -> None:
        """Remember keys; those of passwords that hold no longer go."""
        password_of = self._password_of
        self._derived = {old: made for old, made in self._derived.items() if password_of(old[0]) is made[0]}
        self._derived[key] = secret, credential


def _proof(exchange: Exchange, message: bytes) -> bytes:
    try:
        return exchange.proof_of(message)
    except MalformedScram as error:
        raise LoginRefused(f"user {exchange.name!r}: {exchange.mechanism}: {error}") from None


def _key(name: str, mechanism: str) -> bytes:
    return catalog.key(catalog.SCRAM, name, mechanism)


def _stored(store: Store) -> Iterator[tuple[Key, Credential]]:
    for entry in catalog.read_kind(store.catalog, catalog.SCRAM):
        try:
            if isinstance(entry, catalog.Unreadable):
                raise ValueError(entry.why)
            name, mechanism = entry.names
            credential = Credential(**entry.known)
        except (ValueError, TypeError) as error:
            log.error("a SCRAM credential cannot be read, its user has to set it again: %s", error)
            continue
        yield (name, mechanism), credential
