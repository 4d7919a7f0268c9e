"""Who may do what: users, tags, permissions per vhost, topic permissions, access lists. Pure and synchronous.

Owns the rules (RabbitMQ's rabbit_auth_backend_internal; what Kafka's entries add is in `access_lists`) and the `epoch`
that tells caches of decisions when they are stale. Knows nothing of passwords, connections or where users come from.

Invariants: a pattern is matched in time linear in the name (google-re2, never `re`); what is substituted into a
pattern is escaped; a deleted user, also one a connection still holds, may do nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from broker.core.access_lists import AccessList, Acl, Kind, Operation

Verb = Literal["configure", "write", "read"]
TopicVerb = Literal["write", "read"]
Matches = Callable[[str], bool]

DEFAULT_EXCHANGE_RESOURCE = "amq.default"
"""What permissions call the exchange whose name is empty (RabbitMQ)."""
PATTERN_LENGTH_MAX = 8192
"""Characters; lists of names in one pattern are common, longer ones want a prefix."""
PATTERN_MEMORY_BYTES = 4 * 2**20
"""What re2 may use for one pattern's automaton; past it matching is slower, never more than linear."""
RESULTS_MAX = 1024
"""Decisions remembered per user. Names have up to 255 bytes, so a user costs at most about 0.5 MB."""
CLIENT_PATTERNS_MAX = 256
"""Patterns with `{client_id}` filled in, remembered per topic permission."""

VERBS: dict[Operation, tuple[Verb, ...]] = {
    "read": ("read",),
    "write": ("write",),
    "create": ("configure",),
    "delete": ("configure",),
    "alter": ("configure",),
    "alter_configs": ("configure",),
    "describe": ("read", "write", "configure"),
    "describe_configs": ("read", "write", "configure"),
}
"""Which permission of the vhost allows an operation of Kafka's: any of these."""

EVERYTHING = frozenset({".*", "^.*", ".*$", "^.*$"})
"""Patterns that every name has."""
_NEVER_BUT_EMPTY = frozenset({"", "^$"})
_VARIABLE = re.compile(r"\{(username|vhost|client_id)\}")
_SPECIAL = re.compile(r"[\x00-/:-@\[-^`{-\x7f]")
"""ASCII but for letters, digits and the underscore. Spelled as what is not those, it takes 6 ms to compile."""


def compile_pattern(pattern: str) -> Matches:
    """A function that says whether the pattern is found anywhere in a name; the empty pattern means `^$`.

    Raises ValueError for what re2 does not take: bad syntax, and look-around and back-references, which have no linear
    time. re2 is imported only for patterns that need it.
    """
    if pattern in EVERYTHING:
        return _always
    if pattern in _NEVER_BUT_EMPTY:
        return _is_empty
    if len(pattern) > PATTERN_LENGTH_MAX:
        raise ValueError(f"pattern longer than {PATTERN_LENGTH_MAX} characters")
    import re2

    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = PATTERN_MEMORY_BYTES
    try:
        search = re2.compile(pattern, options).search
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0] if error.args else error
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"pattern {pattern!r}: {text} (look-around and back-references are not supported)") from None
    return lambda name: search(name) is not None


def check_pattern(pattern: str) -> None:
    """Raises ValueError for a pattern that `compile_pattern` does not take."""
    compile_pattern(pattern)


def _always(_: str) -> bool:
    return True


def _is_empty(name: str) -> bool:
    return not name


def escape(text: str) -> str:
    """A pattern that matches exactly this text."""
    return _SPECIAL.sub(lambda match: "\\x00" if match[0] == "\0" else "\\" + match[0], text)


class _TopicPattern:
    """A routing key pattern with user and vhost filled in; `{client_id}` is filled in when asked."""

    __slots__ = ("_by_client", "_matches", "_template")

    def __init__(self, pattern: str, username: str, vhost: str) -> None:
        known = {"username": escape(username), "vhost": escape(vhost), "client_id": "{client_id}"}
        self._template = _VARIABLE.sub(lambda match: known[match[1]], pattern)
        self._by_client: dict[str | None, Matches] | None = {} if "{client_id}" in self._template else None
        self._matches = compile_pattern(self._filled(None))

    def _filled(self, client_id: str | None) -> str:
        """Without a client id the variable stands for its own characters, as in RabbitMQ."""
        return self._template.replace("{client_id}", escape("{client_id}" if client_id is None else client_id))

    def matches(self, routing_key: str, client_id: str | None) -> bool:
        if self._by_client is None or client_id is None:
            return self._matches(routing_key)
        found = self._by_client.get(client_id)
        if found is None:
            if len(self._by_client) >= CLIENT_PATTERNS_MAX:
                self._by_client.clear()
            try:
                found = compile_pattern(self._filled(client_id))
            except ValueError:  # Only by its length: a client id is escaped.
                return False
            self._by_client[client_id] = found
        return found(routing_key)


class User:
    """One user; the same object for as long as the user exists, so that connections see changes."""

    __slots__ = ("_patterns", "_permissions", "_results", "_topics", "loopback_only", "name", "tags")

    def __init__(self, name: str) -> None:
        self.name = name
        self.tags: frozenset[str] = frozenset()
        self.loopback_only = False
        self._patterns: dict[str, dict[Verb, str]] = {}
        self._permissions: dict[str, dict[Verb, Matches]] = {}
        self._topics: dict[str, dict[str, dict[TopicVerb, _TopicPattern]]] = {}
        self._results: dict[tuple[str, Verb | Operation, str], bool] = {}

    def __repr__(self) -> str:
        return f"User({self.name!r})"


class Access:
    """All users and their permissions."""

    __slots__ = ("epoch", "lists", "users")

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.lists: dict[str, AccessList] = {}
        """Of the vhosts that have entries; changed by `add_acl` and `remove_acl` alone."""
        self.epoch = 0
        """Rises at every change; a decision made under another epoch is stale."""

    # Asking.

    def can(
        self, user: User, vhost: str, verb: Verb | Operation, resource: str, kind: Kind | None = "topic", host: str = ""
    ) -> bool:
        """Whether the user may `verb` what has that name; neither permission nor entry means no.

        `kind` is what it is to access lists: queues are topics, exchanges are nothing (None). `host` is the peer's.
        """
        if kind is not None and self.lists:
            listed = self.listed(user, vhost, "create" if verb == "configure" else verb, resource, kind, host)
            if listed is not None:
                return listed
        key = (vhost, verb, resource)
        result = user._results.get(key)
        if result is None:
            permission = user._permissions.get(vhost)
            name = resource or DEFAULT_EXCHANGE_RESOURCE
            verbs: tuple[Verb, ...] = ("configure",) if verb == "configure" else VERBS.get(verb, ())
            result = permission is not None and any(permission[one](name) for one in verbs)
            if len(user._results) >= RESULTS_MAX:
                user._results.clear()
            user._results[key] = result
        return result

    def listed(self, user: User, vhost: str, operation: Operation, resource: str, kind: Kind, host: str) -> bool | None:
        """What the vhost's access list alone says: yes, no, or nothing (None)."""
        entries = self.lists.get(vhost)
        if entries is None or self.users.get(user.name) is not user:
            return None
        return entries.decide(user.name, host, operation, kind, resource)

    def may_write_somewhere(self, user: User, vhost: str, host: str = "") -> bool:
        """Whether there may be a topic that the user may write to, by the access list or by a permission."""
        entries = self.lists.get(vhost)
        if self.users.get(user.name) is not user:
            return False
        some = entries.allows_some(user.name, host, "write", "topic") if entries is not None else None
        return user._patterns.get(vhost, {}).get("write", "") not in _NEVER_BUT_EMPTY if some is None else some

    def acls(self, vhost: str) -> AccessList:
        """The access list of a vhost; it is changed by `add_acl` and `remove_acl`."""
        return self.lists.get(vhost) or AccessList()

    def patterns_of(self, user: User, vhost: str) -> Mapping[Verb, str]:
        """The user's permissions in the vhost, as they were given; empty where there are none."""
        return user._patterns.get(vhost, {})

    def can_topic(
        self, user: User, vhost: str, verb: TopicVerb, exchange: str, routing_key: str, client_id: str | None = None
    ) -> bool:
        """Whether the user may publish (write) or bind (read) with the routing key on a topic exchange.

        Without a topic permission for that exchange the answer is yes (RabbitMQ): these only narrow what `can` allows.
        """
        permission = user._topics.get(vhost, {}).get(exchange)
        return permission is None or permission[verb].matches(routing_key, client_id)

    def has_topic_permissions(self, user: User, vhost: str) -> bool:
        """Whether `can_topic` can say no to anything in the vhost."""
        return vhost in user._topics

    def may_enter(self, user: User, vhost: str) -> bool:
        """Whether the user may open a connection to the vhost: any permission entry will do."""
        return vhost in user._permissions

    def vhosts_of(self, user: User) -> tuple[str, ...]:
        """The vhosts the user may enter, by name."""
        return tuple(sorted(user._permissions))

    # Changing. Patterns are compiled before anything changes, so that a bad one leaves all as it was.

    def put_user(self, name: str, tags: Iterable[str] = (), *, loopback_only: bool = False) -> User:
        """Create the user, or change what it is; permissions stay."""
        user = self.users.get(name)
        if user is None:
            user = self.users[name] = User(name)
        user.tags = frozenset(tags)
        user.loopback_only = loopback_only
        self._changed(user)
        return user

    def delete_user(self, name: str) -> None:
        """Delete the user with its permissions; no such user is no error."""
        user = self.users.pop(name, None)
        if user is not None:
            user.tags = frozenset()
            user._permissions.clear()
            user._patterns.clear()
            user._topics.clear()
            self._changed(user)

    def set_permissions(self, name: str, vhost: str, configure: str, write: str, read: str) -> None:
        """Set all three patterns. Raises KeyError for an unknown user, ValueError for a bad pattern."""
        user = self.users[name]
        user._permissions[vhost] = {
            "configure": compile_pattern(configure),
            "write": compile_pattern(write),
            "read": compile_pattern(read),
        }
        user._patterns[vhost] = {"configure": configure, "write": write, "read": read}
        self._changed(user)

    def clear_permissions(self, name: str, vhost: str) -> None:
        """The user may no longer enter the vhost."""
        user = self.users[name]
        user._permissions.pop(vhost, None)
        user._patterns.pop(vhost, None)
        self._changed(user)

    def set_topic_permissions(self, name: str, vhost: str, exchange: str, write: str, read: str) -> None:
        """Narrow the routing keys on a topic exchange. Raises KeyError (no such user) or ValueError (bad pattern)."""
        user = self.users[name]
        patterns: dict[TopicVerb, _TopicPattern] = {
            "write": _TopicPattern(write, name, vhost),
            "read": _TopicPattern(read, name, vhost),
        }
        user._topics.setdefault(vhost, {})[exchange] = patterns
        self._changed(user)

    def clear_topic_permissions(self, name: str, vhost: str | None = None, exchange: str | None = None) -> None:
        """Drop the topic permission of one exchange, of all in the vhost, or of all vhosts."""
        user = self.users[name]
        for each in list(user._topics) if vhost is None else [vhost]:
            exchanges = user._topics.get(each, {})
            for one in list(exchanges) if exchange is None else [exchange]:
                exchanges.pop(one, None)
            if not exchanges:
                user._topics.pop(each, None)
        self._changed(user)

    def add_acl(self, vhost: str, acl: Acl) -> None:
        """An entry of the vhost's access list; again is nothing."""
        self.lists.setdefault(vhost, AccessList()).add(acl)
        self.epoch += 1

    def remove_acl(self, vhost: str, acl: Acl) -> None:
        """Raises KeyError where there is no such entry."""
        entries = self.lists[vhost]
        entries.remove(acl)
        if not len(entries):
            del self.lists[vhost]
        self.epoch += 1

    def drop_vhost(self, vhost: str) -> None:
        """The vhost is gone: so is every permission in it, lest the next of that name inherit them."""
        self.lists.pop(vhost, None)
        for user in self.users.values():
            user._permissions.pop(vhost, None)
            user._patterns.pop(vhost, None)
            user._topics.pop(vhost, None)
            self._changed(user)

    def _changed(self, user: User) -> None:
        user._results.clear()
        self.epoch += 1
