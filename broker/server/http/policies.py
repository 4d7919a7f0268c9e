"""Policies over HTTP: RabbitMQ's /api/policies and /api/operator-policies, for users who may make policies."""

from __future__ import annotations

from typing import Any

from broker.core.vhosts.policies import Policy, make_policy
from broker.core.vhosts.vhost import VHost
from broker.server.http.api import CREATED, Created, HttpError, Request, find_vhost, not_there, route_to, visible_vhosts

MAKERS = frozenset({"policymaker", "administrator"})


def _view(policy: Policy, vhost: str) -> dict[str, Any]:
    return {
        "vhost": vhost,
        "name": policy.name,
        "pattern": policy.pattern,
        "apply-to": policy.apply_to,
        "priority": policy.priority,
        "definition": dict(policy.definition),
    }


def _of(vhost: VHost, kind: str) -> dict[str, Policy]:
    return vhost.policies.operator if kind == "operator-policies" else vhost.policies.user


def _require_maker(request: Request, kind: str) -> None:
    allowed = MAKERS if kind == "policies" else frozenset({"administrator"})
    if not request.user.tags & allowed:
        raise HttpError(401, "not_authorised", f"user '{request.user.name}' may not make {kind}")


def _no(kind: str, name: str, vhost: str) -> HttpError:
    noun = "policy" if kind == "policies" else "operator policy"
    return not_there(f"{noun} '{name}' in vhost '{vhost}'")


def _register(kind: str) -> None:
    @route_to("GET", kind)
    @route_to("GET", f"{kind}/*")
    def _list(request: Request, vhost: str | None = None) -> list[dict[str, Any]]:
        homes = visible_vhosts(request) if vhost is None else [find_vhost(request, vhost)]
        return [_view(policy, home.name) for home in homes for policy in _of(home, kind).values()]

    @route_to("GET", f"{kind}/*/*")
    def _show(request: Request, vhost: str, name: str) -> dict[str, Any]:
        policy = _of(find_vhost(request, vhost), kind).get(name)
        if policy is None:
            raise _no(kind, name, vhost)
        return _view(policy, vhost)

    @route_to("PUT", f"{kind}/*/*")
    def _put(request: Request, vhost: str, name: str) -> Created | None:
        """201 for a new one, 204 for a change (RabbitMQ: rabbit_mgmt_wm_policy.erl)."""
        _require_maker(request, kind)
        home = find_vhost(request, vhost)
        body = request.body
        definition = body.get("definition")
        priority = body.get("priority", 0)
        if not isinstance(definition, dict) or not isinstance(body.get("pattern"), str):
            raise HttpError(400, "bad_request", "a policy has a pattern (a string) and a definition (an object)")
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise HttpError(400, "bad_request", "priority is an integer")
        operator = kind != "policies"
        apply_to = str(body.get("apply-to", "all"))
        policy = make_policy(name, body["pattern"], apply_to, priority, definition, operator=operator)
        return CREATED if home.policies.set(policy, operator=operator) else None

    @route_to("DELETE", f"{kind}/*/*")
    def _delete(request: Request, vhost: str, name: str) -> None:
        _require_maker(request, kind)
        if not find_vhost(request, vhost).policies.delete(name, operator=kind != "policies"):
            raise _no(kind, name, vhost)


_register("policies")
_register("operator-policies")
