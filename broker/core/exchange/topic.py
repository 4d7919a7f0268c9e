"""`topic`: a publication goes where a binding pattern matches the dotted words of its routing key (spec 3.1.3.3).

`*` is exactly one word, which may be empty (`a.` has the words `a` and ``); `#` is any number of words, also none. The
empty routing key has no words: `#` matches it, `*` does not (RabbitMQ 4.0.5, observed).

Hot path. Budget 2 µs for three words, at most doubled by 10,000 bindings; `tests/core/exchange/test_topic_cost.py`
holds both. Owns the trie and three bounded caches; must not know who asks.

Patterns are stored in canonical form: a run of wildcards is its `*`s, then at most one `#` (`#.*` says what `*.#`
says). So below a `#` node stand only literal words, and matching is the simulation of an automaton whose states are
nodes: it never visits a node twice for one word, where a recursive walk is exponential in the `#`s of a hostile
pattern. Patterns made for it can still keep a million states alive, 44 s for one key (measured): hence STATES_MAX.
Invariant: no node is empty (without bindings and children) except the root.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from broker.core.exchange.base import Binding, Choose, Destination, Message, Publication
from broker.errors import Refused
from protocol.amqp.errors import PRECONDITION_FAILED

KEYS_MAX = 4096
"""Routing keys remembered per exchange, at up to 255 bytes each."""
SLOTS_MAX = 1 << 18
"""References held in remembered answers, 2 MiB: 4096 answers of 10,000 destinations each would be 320 MiB."""
STATES_MAX = 4096
"""Places in the trie that one key may stand at together; patterns that people use need a handful. Holds the worst
key, 128 words, to some tens of milliseconds."""

_NO_WORDS: dict[str, _Node] = {}
_NO_BINDINGS: dict[Any, tuple[int, Destination]] = {}
# Shared by the nodes that have none, never written to: most nodes are steps on the way, and dicts their largest part.


class _Node:
    """A place in the trie: what may follow (`words`, `star`, `loop` for `#`) and the bindings that end here."""

    __slots__ = ("bindings", "loop", "star", "words")

    def __init__(self) -> None:
        self.words = _NO_WORDS
        self.star: _Node | None = None
        self.loop: _Node | None = None
        self.bindings = _NO_BINDINGS

    @property
    def empty(self) -> bool:
        """Of no use to anyone."""
        return not (self.words or self.bindings or self.star or self.loop)

    def child(self, word: str) -> _Node | None:
        """What follows under `word` of a pattern."""
        if word == "*":
            return self.star
        return self.loop if word == "#" else self.words.get(word)

    def grow(self, word: str) -> _Node:
        """A new child under `word` of a pattern."""
        node = _Node()
        if word == "*":
            self.star = node
        elif word == "#":
            self.loop = node
        elif self.words:
            self.words[word] = node
        else:
            self.words = {word: node}
        return node

    def prune(self, word: str) -> None:
        """Forget the child under `word` of a pattern."""
        if word == "*":
            self.star = None
        elif word == "#":
            self.loop = None
        else:
            del self.words[word]


def _canonical(pattern: str) -> list[str]:
    """The words of a pattern, with `#` behind the `*`s of its run and never twice in a row."""
    words: list[str] = []
    looped = False
    for word in pattern.split(".") if pattern else ():
        if word == "#":
            looped = True
            continue
        if looped and word != "*":
            words.append("#")
            looped = False
        words.append(word)
    if looped:
        words.append("#")
    return words


class TopicRouter:
    """A trie of patterns. Answers are remembered per routing key, and made once per set of patterns that matched."""

    __slots__ = ("_interned", "_merged", "_root", "_routes", "_sequence", "_slots")

    type_name: ClassVar[str] = "topic"
    cacheable: ClassVar[bool] = True
    remembers: ClassVar[bool] = False
    keyed: ClassVar[bool] = True

    def __init__(self, arguments: Mapping[str, Any], choose: Choose) -> None:
        self._root = _Node()
        self._sequence = 0
        self._routes: dict[str, tuple[Destination, ...]] = {}
        self._merged: dict[tuple[_Node, ...], tuple[Destination, ...]] = {}
        self._interned: dict[tuple[Destination, ...], tuple[Destination, ...]] = {}
        self._slots = 0

    @property
    def empty(self) -> bool:
        """Nothing is bound, and no trace is left of what was."""
        return self._root.empty

    def check_binding(self, routing_key: str, arguments: Mapping[str, Any]) -> None:
        """Any pattern will do."""

    def add(self, binding: Binding) -> Sequence[Message]:
        """Add a binding; nothing is delivered at once."""
        node = self._root
        for word in _canonical(binding.routing_key):
            node = node.child(word) or node.grow(word)
        self._sequence += 1
        if not node.bindings:
            node.bindings = {}
        node.bindings[binding.key] = (self._sequence, binding.destination)
        self._forget()
        return ()

    def remove(self, binding: Binding) -> None:
        """Remove a binding that was added before, with the nodes that it alone needed."""
        node = self._root
        path: list[tuple[_Node, str]] = []
        for word in _canonical(binding.routing_key):
            path.append((node, word))
            child = node.child(word)
            if child is None:
                raise KeyError(binding.key)
            node = child
        del node.bindings[binding.key]
        for parent, word in reversed(path):
            if not node.empty:
                break
            parent.prune(word)
            node = parent
        self._forget()

    def route(self, publication: Publication) -> tuple[Destination, ...]:
        """The destinations of every pattern that matches the routing key. Raises Refused(406) past STATES_MAX."""
        routing_key = publication.routing_key
        found = self._routes.get(routing_key)
        if found is not None:
            return found
        matched = self._match(routing_key)
        route = self._merged.get(matched)
        if route is None:
            route = self._merge(matched)
        if len(self._routes) >= KEYS_MAX:
            self._routes.clear()
        self._routes[routing_key] = route
        return route

    def _match(self, routing_key: str) -> tuple[_Node, ...]:  # noqa: C901  # Calls would double the cost.
        """The nodes with bindings whose pattern matches."""
        root = self._root
        states = [root]
        loops: dict[_Node, None] = {}  # `#` nodes reached so far: once reached they match whatever follows.
        walking: list[_Node] = []  # Those of them that words can lead on from.
        if root.loop is not None:
            loops[root.loop] = None
            if root.loop.words:
                walking.append(root.loop)
        for word in routing_key.split(".") if routing_key else ():
            reached = []
            for node in walking:
                if word in node.words:
                    reached.append(node.words[word])  # noqa: PERF401
            for node in states:
                if word in node.words:
                    reached.append(node.words[word])
                if node.star is not None:
                    reached.append(node.star)
            states = reached
            if not reached and not walking:
                break  # No further word changes anything.
            for node in reached:
                loop = node.loop
                if loop is not None and loop not in loops:
                    loops[loop] = None
                    if loop.words:
                        walking.append(loop)
            if len(reached) + len(loops) > STATES_MAX:
                text = f"routing key meets more than {STATES_MAX} patterns of a topic exchange at once"
                raise Refused(PRECONDITION_FAILED, text)
        matched = []
        # No comprehensions: in 3.11 setting one up costs as much as a word.
        for node in states:
            if node.bindings:
                matched.append(node)  # noqa: PERF401
        for node in loops:
            if node.bindings:
                matched.append(node)  # noqa: PERF401
        return tuple(matched)

    def _merge(self, matched: tuple[_Node, ...]) -> tuple[Destination, ...]:
        if len(matched) == 1:
            ordered = list(matched[0].bindings.values())
        else:
            ordered = sorted((item for node in matched for item in node.bindings.values()), key=_sequence_of)
        fresh = tuple(dict.fromkeys([destination for _, destination in ordered]))
        self._slots += len(matched) + len(fresh) + 1
        if self._slots > SLOTS_MAX:
            self._forget()
            self._slots = len(matched) + len(fresh) + 1
        route = self._merged[matched] = self._interned.setdefault(fresh, fresh)
        return route

    def _forget(self) -> None:
        """Drop the caches, all three: an answer that survived in one would be another object than its successor."""
        self._routes.clear()
        self._merged.clear()
        self._interned.clear()
        self._slots = 0


def _sequence_of(item: tuple[int, Destination]) -> int:
    return item[0]
