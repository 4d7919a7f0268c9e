"""Health: what an operator, or a probe, has to know. `GET /api/health` has all of it, `health/checks/...` one each.

| | 503 while | else |
|---|---|---|
| `health` | an alarm is on, something is damaged, an entry of the catalog is left aside | 200, with the conflicts |
| `health/checks/alarms`, `local-alarms`, `virtual-hosts` | RabbitMQ's | 200 |
| `health/checks/storage` | something is damaged or left aside | 200 |
| `health/checks/partitions` | a partition cannot be read, or rid of what is too old | 200 |
| `health/checks/topology` | the configuration conflicts with what is there | 200 |

Names are told to who may see them: those of a vhost to who sees the vhost, conflicts and what is left aside to who
monitors. Damage that may not be named still fails, so that a probe needs no rights but to ask.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import islice
from typing import Any

from broker.core import damage
from broker.server.http.api import MONITORING, HttpError, Request, Work, route_to, visible_vhosts

PARTITIONS_NAMED_MAX = 20
"""By a health check."""
UNSEEN = "something is damaged or left aside that is told to who monitors"
CONFLICTS = "the configuration conflicts with what is there"


def _damage(request: Request) -> Generator[None, None, list[str]]:
    """What storage cannot give back: a sentence each, and one for all that the user may not see."""
    broker = request.hub.broker
    seen = set(visible_vhosts(request))
    told = [f"{one} (left aside)" for one in broker.left_aside if _monitors(request)]
    has_unseen = len(told) < len(broker.aside)
    for vhost in list(broker.vhosts.values()):
        for sentence in damage.sentences(vhost):
            if sentence is None:
                yield
            elif vhost in seen:
                told.append(sentence)
            else:
                has_unseen = True
    return [*told, *_troubles(request), *([UNSEEN] if has_unseen else [])]


def _monitors(request: Request) -> bool:
    return bool(request.user.tags & MONITORING)


def _troubles(request: Request) -> list[str]:
    """The partitions that cannot be read or cleaned, of vhosts that the user sees, and why: some of them."""
    found = (
        f"{line} (vhost '{vhost.name}')"
        for vhost in visible_vhosts(request)
        if vhost.topics is not None
        for line in vhost.topics.troubles.all()
    )
    return list(islice(found, PARTITIONS_NAMED_MAX))


@route_to("GET", "health")
def _health(request: Request) -> Work:
    broker = request.hub.broker
    lost = yield from _damage(request)
    conflicts = broker.conflicts if _monitors(request) else []
    if broker.alarm is not None:
        raise HttpError(503, "failed", broker.alarm, damage=lost, conflicts=conflicts)
    if lost:
        raise HttpError(503, "failed", "; ".join(lost), damage=lost, conflicts=conflicts)
    return {"status": "ok", "damage": [], "conflicts": conflicts}


@route_to("GET", "health/checks/alarms")
@route_to("GET", "health/checks/local-alarms")
def _alarms(request: Request) -> dict[str, Any]:
    alarm = request.hub.broker.alarm
    if alarm is not None:
        raise HttpError(503, "failed", alarm)
    return {"status": "ok"}


@route_to("GET", "health/checks/virtual-hosts")
def _vhosts(_request: Request) -> dict[str, Any]:
    return {"status": "ok"}


@route_to("GET", "health/checks/storage")
def _storage(request: Request) -> Work:
    lost = yield from _damage(request)
    if lost:
        raise HttpError(503, "failed", "; ".join(lost), damage=lost)
    return {"status": "ok"}


@route_to("GET", "health/checks/partitions")
def _partitions(request: Request) -> dict[str, Any]:
    troubles = _troubles(request)
    if troubles:
        raise HttpError(503, "failed", "\n".join(troubles))
    return {"status": "ok"}


@route_to("GET", "health/checks/topology")
def _topology(request: Request) -> dict[str, Any]:
    conflicts = request.hub.broker.conflicts
    if conflicts and not _monitors(request):
        raise HttpError(503, "failed", CONFLICTS, conflicts=[])
    if conflicts:
        raise HttpError(503, "failed", "; ".join(conflicts), conflicts=conflicts)
    return {"status": "ok"}
