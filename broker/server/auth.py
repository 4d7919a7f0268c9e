"""Login: SASL mechanisms, verifying passwords off the loop, and slowing down guesses.

Owns the credentials, the memory of verified logins and the table of failures. What a user may do is
`broker.core.access`; what a refused peer is told, and when, is the face's.

Invariants: a password is kept as a hash or not at all; every failed login costs the same, whether the user exists or
not; a bucket of failures that is empty refuses right passwords too, else it would not slow a guess.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final

import trio

from broker.config.schema import Security
from broker.config.schema import User as UserConfig
from broker.core.access import Access, User
from broker.core.passwords import SaltedHash, ScryptHash, make_hash, parse_hash
from protocol.amqp.errors import PeerError
from protocol.amqp.fields import decode_table

PLAIN, AMQPLAIN, EXTERNAL, ANONYMOUS = "PLAIN", "AMQPLAIN", "EXTERNAL", "ANONYMOUS"
THREADS = 2
"""scrypt runs at a time, of a core and 32 MiB each; a limiter of their own, so that no disk waits for a login."""
RESPONSE_BYTES_MAX = 8192
"""A SASL response; longer ones cannot come in an unauthenticated frame."""
PASSWORD_BYTES_MAX = 4096
"""Long enough for a token in the password's place."""
ADDRESS_FACTOR = 10
"""How many times a user's failures the address alone may have: names can be tried as well as passwords."""
_AMQPLAIN_ELEMENTS_MAX = 16


class LoginRefused(Exception):
    """No. The text is for the log, never for the peer, and never holds what the peer sent as a password."""

    def __init__(self, reason_for_log: str) -> None:
        super().__init__(reason_for_log)
        self.reason_for_log = reason_for_log


def is_loopback(host: str) -> bool:
    """Whether a numeric peer address is loopback: 127.0.0.0/8, ::1, or the former mapped into IPv6."""
    try:
        return socket.inet_pton(socket.AF_INET, host)[0] == 127
    except (OSError, ValueError):
        without_scope = host.partition("%")[0]  # As in fe80::1%eth0.
    try:
        raw = socket.inet_pton(socket.AF_INET6, without_scope)
    except (OSError, ValueError):
        return False
    return raw == b"\0" * 15 + b"\1" or (raw[:12] == b"\0" * 10 + b"\xff\xff" and raw[12] == 127)


def new_hash(password: str) -> str:
    """A password_hash for the configuration: scrypt with a fresh salt. Takes 80 ms."""
    return make_hash(password.encode(), os.urandom(16))


class _KeyedHash:
    """A password given as plain text, kept as an HMAC under a key that lives as long as the process."""

    __slots__ = ("digest", "key")
    slow: Final = False

    def __init__(self, key: bytes, password: bytes) -> None:
        self.key = key
        self.digest = hmac.digest(key, password, "sha256")

    def verify(self, password: bytes) -> bool:
        return hmac.compare_digest(hmac.digest(self.key, password, "sha256"), self.digest)


Credential = _KeyedHash | SaltedHash | ScryptHash


class _Failures:
    """Token buckets of failed logins, by (address, user) and by address; the table is bounded."""

    __slots__ = ("_buckets", "_burst", "_refill_s", "_tracked_max")

    def __init__(self, burst: int, refill_s: float, tracked_max: int) -> None:
        self._burst = burst
        self._refill_s = refill_s
        self._tracked_max = tracked_max
        self._buckets: OrderedDict[tuple[str, str | None], tuple[float, float]] = OrderedDict()

    def charge(self, host: str, name: str, now_s: float, amount: float = 1.0) -> None:
        """Note a failure (-1: take it back)."""
        for key in ((host, name), (host, None)):
            tokens, full = self._tokens(key, now_s)
            if tokens - amount >= full:
                self._buckets.pop(key, None)
                continue
            self._buckets[key] = tokens - amount, now_s
            self._buckets.move_to_end(key)
        while len(self._buckets) > self._tracked_max:
            self._buckets.popitem(last=False)

    def exhausted(self, host: str, name: str, now_s: float) -> bool:
        """Whether either bucket has no failure left to give."""
        return self._tokens((host, name), now_s)[0] < 1.0 or self._tokens((host, None), now_s)[0] < 1.0

    def _tokens(self, key: tuple[str, str | None], now_s: float) -> tuple[float, float]:
        factor = 1 if key[1] is not None else ADDRESS_FACTOR
        full = float(self._burst * factor)
        there = self._buckets.get(key)
        if there is None:
            return full, full
        return min(full, there[0] + (now_s - there[1]) * factor / self._refill_s), full


class _Run:
    """One verification in a thread; `proved` stays None when it was cancelled."""

    __slots__ = ("done", "proved")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.proved: bool | None = None


class Authenticator:
    """Who is this? One for all listeners. `clock` is monotonic, in seconds."""

    __slots__ = (
        "_access", "_clock", "_credentials", "_failures", "_key", "_running", "_security", "_slow_hashes",
        "_verified", "threads",
    )  # fmt: skip

    def __init__(
        self, access: Access, security: Security | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._access = access
        self._security = security or Security()
        self._clock = clock
        self._key = os.urandom(32)
        self._credentials: dict[str, Credential] = {}
        self._slow_hashes: list[ScryptHash] | None = None
        self._verified: dict[str, tuple[bytes, float]] = {}
        self._failures = _Failures(
            self._security.login_failures_burst,
            self._security.login_failure_refill_s,
            self._security.login_failures_tracked_max,
        )
        self._running: dict[bytes, _Run] = {}
        self.threads = trio.CapacityLimiter(THREADS)

    # Credentials.

    def set_password(self, name: str, password: str) -> None:
        """The user logs in with this password; only a keyed hash of it is kept."""
        self._set(name, _KeyedHash(self._key, password.encode()))

    def set_hash(self, name: str, password_hash: str) -> None:
        """The user logs in with the password behind this hash. Raises ValueError for what is not one."""
        self._set(name, parse_hash(password_hash))

    def forget(self, name: str) -> None:
        """The user is gone, or logs in by certificate only from now on."""
        self._set(name, None)

    def _set(self, name: str, credential: Credential | None) -> None:
        self._verified.pop(name, None)
        self._credentials.pop(name, None)
        if credential is not None:
            self._credentials[name] = credential
        self._slow_hashes = None

    def _slow(self) -> list[ScryptHash]:
        """The scrypt hashes there are: one of them is verified against in the place of a user that has none."""
        if self._slow_hashes is None:
            self._slow_hashes = [one for one in self._credentials.values() if isinstance(one, ScryptHash)]
        return self._slow_hashes

    # Logging in.

    async def authenticate(
        self, mechanism: bytes | str, response: bytes, peer_host: str, external_name: str | None = None
    ) -> User:
        """The user that the peer has proved to be. Raises LoginRefused.

        `peer_host` is the peer's numeric address (of the socket, not of the listener); `external_name` the name in its
        verified certificate, None without one.
        """
        user = self.authenticate_nowait(mechanism, response, peer_host, external_name)
        if user is not None:
            return user
        name, password = self._identify(_mechanism(mechanism), response, external_name)
        assert password is not None  # Without one nothing needs a thread.
        if not await self._verify_once(name, password, peer_host):
            raise LoginRefused(f"user {name!r} from {peer_host}: wrong password or no such user")
        return self.admit(name, peer_host)

    def authenticate_nowait(
        self, mechanism: bytes | str, response: bytes, peer_host: str, external_name: str | None = None
    ) -> User | None:
        """The same without waiting; None where it takes a thread, so that `authenticate` must be asked."""
        name, password = self._identify(_mechanism(mechanism), response, external_name)
        self.check_failures(name, peer_host)
        proved = True if password is None else self._verify_nowait(name, password)
        if proved is None:
            return None
        if not proved:
            self.charge(name, peer_host)
            raise LoginRefused(f"user {name!r} from {peer_host}: wrong password or no such user")
        return self.admit(name, peer_host)

    def mechanisms(self, *, certificate: bool) -> str:
        """What connection.start advertises, space separated.

        EXTERNAL only where the peer showed a certificate: some clients (amqpstorm) take it whenever it is offered.
        ANONYMOUS only where there is a user for it (RabbitMQ: rabbit_auth_mechanism_anonymous.erl, should_offer).
        """
        offered = [AMQPLAIN, PLAIN]
        if certificate:
            offered.append(EXTERNAL)
        if self._security.anonymous_user is not None:
            offered.append(ANONYMOUS)
        return " ".join(offered)

    def _identify(self, mechanism: str, response: bytes, external_name: str | None) -> tuple[str, bytes | None]:
        if len(response) > RESPONSE_BYTES_MAX:
            raise LoginRefused(f"{mechanism[:32]!r}: response longer than {RESPONSE_BYTES_MAX} bytes")
        anonymous = self._security.anonymous_user
        if mechanism == PLAIN:
            name, password = _plain(response)
        elif mechanism == AMQPLAIN:
            name, password = _amqplain(response)
        elif mechanism == EXTERNAL:
            return _external(response, external_name), None
        elif mechanism == ANONYMOUS and anonymous is not None:
            return anonymous, None  # What the response says of its sender (RFC 4505) proves nothing.
        else:
            raise LoginRefused(f"unknown mechanism {mechanism[:32]!r}")
        if not password:
            raise LoginRefused(f"user {name!r}: the empty password is never accepted")
        if len(password) > PASSWORD_BYTES_MAX:
            raise LoginRefused(f"user {name!r}: password longer than {PASSWORD_BYTES_MAX} bytes")
        return name, password

    # For mechanisms that prove it themselves, too.

    def check_failures(self, name: str, peer_host: str) -> None:
        """Raises LoginRefused when there were too many: right passwords are refused as well then."""
        if self._failures.exhausted(peer_host, name, self._clock()):
            raise LoginRefused(f"user {name!r} from {peer_host}: too many failed logins")

    def charge(self, name: str, peer_host: str, amount: float = 1.0) -> None:
        """Note a failed login (-1: take it back)."""
        self._failures.charge(peer_host, name, self._clock(), amount)

    def admit(self, name: str, peer_host: str) -> User:
        """The user, now that the peer has proved to be it. Raises LoginRefused, and notes that, where it may not."""
        try:
            return self._admitted(name, peer_host)
        except LoginRefused:
            self.charge(name, peer_host)
            raise

    def _admitted(self, name: str, peer_host: str) -> User:
        user = self._access.users.get(name)
        if user is None:
            raise LoginRefused(f"user {name!r} from {peer_host}: wrong password or no such user")
        if user.loopback_only and not is_loopback(peer_host):
            raise LoginRefused(f"user {name!r} from {peer_host}: may only log in from a loopback address")
        return user

    def _verify_nowait(self, name: str, password: bytes) -> bool | None:
        digest = self._digest(name, password)
        known, expires_s = self._verified.get(name, (b"", 0.0))
        if hmac.compare_digest(digest, known) and self._clock() < expires_s:
            return True
        credential = self._credentials.get(name)
        if isinstance(credential, ScryptHash):
            return None
        proved = _verify(credential, password)
        # One scrypt for every failure where there is any: time must not tell who exists, nor with what kind of hash.
        return True if proved else (None if self._slow() else False)

    async def _verify_once(self, name: str, password: bytes, peer_host: str) -> bool:
        """Verify in a thread. Who asks the same while that runs waits for its answer: a service that restarts logs in a
        hundred times at once. A failure is charged to everybody who made it.
        """
        digest = self._digest(name, password)
        while (run := self._running.get(digest)) is not None:
            await run.done.wait()
            if run.proved is not None:
                if not run.proved:
                    self.charge(name, peer_host)
                return run.proved
        run = self._running[digest] = _Run()
        # Charged before the wait and given back after, so that a thousand guesses at once do not all pass the check.
        self.charge(name, peer_host)
        try:
            run.proved = await self._verify_in_thread(name, password)
        finally:
            del self._running[digest]
            run.done.set()
        if run.proved:
            self.charge(name, peer_host, -1.0)
        return run.proved

    async def _verify_in_thread(self, name: str, password: bytes) -> bool:
        credential = self._credentials.get(name)
        slow = self._slow()
        if isinstance(credential, ScryptHash):
            against = credential
        elif slow:
            # The same one for the same name, so that its parameters tell nothing either.
            against = slow[int.from_bytes(self._digest(name, b"")[:8], "big") % len(slow)]
        else:
            return False  # The last scrypt user went while this login waited.
        same = await trio.to_thread.run_sync(against.verify, password, limiter=self.threads)
        # The user may have changed in the meantime.
        proved = same and against is credential and self._credentials.get(name) is credential
        ttl_s = self._security.auth_cache_ttl_s
        if proved and ttl_s:
            self._verified[name] = self._digest(name, password), self._clock() + ttl_s
        return proved

    def _digest(self, name: str, password: bytes) -> bytes:
        raw = name.encode()
        return hmac.digest(self._key, struct.pack(">I", len(raw)) + raw + password, "sha256")


_DECOY = SaltedHash("sha256", b"\0" * 4, hashlib.sha256(b"").digest())
"""No password's hash (it is not salted); verified against where a user has none."""


def _verify(credential: Credential | None, password: bytes) -> bool:
    proved = (credential or _DECOY).verify(password)
    return proved and credential is not None


def apply_users(users: Iterable[UserConfig], access: Access, authenticator: Authenticator) -> None:
    """Make users, permissions and credentials those of the configuration; whatever it does not name goes.

    Raises ValueError for a bad pattern or hash; what `broker.config.load` gave has none.
    """
    wanted = {user.name: user for user in users}
    for name in [name for name in access.users if name not in wanted]:
        access.delete_user(name)
        authenticator.forget(name)
    for user in wanted.values():
        known = access.put_user(user.name, user.tags, loopback_only=user.from_loopback_only)
        for vhost in access.vhosts_of(known):
            if vhost not in user.permissions:
                access.clear_permissions(user.name, vhost)
        for vhost, permission in user.permissions.items():
            access.set_permissions(user.name, vhost, permission.configure, permission.write, permission.read)
        access.clear_topic_permissions(user.name)
        for vhost, exchanges in user.topic_permissions.items():
            for exchange, topic in exchanges.items():
                access.set_topic_permissions(user.name, vhost, exchange, topic.write, topic.read)
        if user.password is not None:
            authenticator.set_password(user.name, user.password.reveal())
        elif user.password_hash is not None:
            authenticator.set_hash(user.name, user.password_hash.reveal())
        else:
            authenticator.forget(user.name)


# Mechanisms. Each gives the name and the password.


def _mechanism(mechanism: bytes | str) -> str:
    return mechanism if isinstance(mechanism, str) else mechanism.decode("ascii", "replace")


def _name(raw: bytes, mechanism: str) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise LoginRefused(f"{mechanism}: the user name is not UTF-8") from None
    if not 1 <= len(raw) <= 255:
        raise LoginRefused(f"{mechanism}: the user name must have 1 to 255 bytes")
    return name


def _plain(response: bytes) -> tuple[str, bytes]:
    """RFC 4616: authzid NUL authcid NUL password. To act for another (authzid) is refused: CVE-2017-12610."""
    parts = response.split(b"\0")
    if len(parts) != 3:
        raise LoginRefused("PLAIN: malformed response")
    if parts[0] and parts[0] != parts[1]:
        raise LoginRefused("PLAIN: the authorization identity is another user's")
    return _name(parts[1], PLAIN), parts[2]


def _amqplain(response: bytes) -> tuple[str, bytes]:
    """A field table without its length: LOGIN and PASSWORD (RabbitMQ's rabbit_auth_mechanism_amqplain)."""
    try:
        table, _ = decode_table(struct.pack(">I", len(response)) + response, 0, _AMQPLAIN_ELEMENTS_MAX)
    except PeerError:
        raise LoginRefused("AMQPLAIN: malformed response") from None
    login, password = _octets(table.get("LOGIN")), _octets(table.get("PASSWORD"))
    if login is None or password is None:
        raise LoginRefused("AMQPLAIN: LOGIN or PASSWORD is missing or not a string")
    return _name(login, AMQPLAIN), password


def _octets(value: Any) -> bytes | None:
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, bytes) else None


def _external(response: bytes, external_name: str | None) -> str:
    """RFC 4422 appendix A: the response is empty or the identity that the certificate proves (or NULs: amqpstorm)."""
    if not external_name:
        raise LoginRefused("EXTERNAL: the peer has shown no verified certificate with a name")
    if response.strip(b"\0") not in (b"", external_name.encode()):
        raise LoginRefused("EXTERNAL: the authorization identity is another user's")
    return _name(external_name.encode(), EXTERNAL)
