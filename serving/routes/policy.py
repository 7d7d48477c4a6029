"""A tenant's policy over HTTP."""

from __future__ import annotations

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from serving.body import read_body
from serving.operation import Operation, json_response
from serving.policy import InForce, Policy, PolicyResponse, parse_policy, policy_of, set_policy
from serving.schemas import TierPolicy
from serving.service import Service, actor_of, tenant_of

_EXAMPLE = {
    "tiers": {"warm": 0.05, "hot": 0.2},
    "routes": {"warm": "marketing"},
    "worth": {"average_deal": 4000},
    "sla": {"hot_leads_a_week": 20, "first_touch_hours": 24},
}


def operations(service: Service) -> list[Operation]:
    """The operations on a policy."""

    def shown(policy: InForce) -> Response:
        tiers = policy.tiers(service.scorer.tiers)
        its = TierPolicy(tiers.version, tiers.warm, tiers.hot, tiers.exit, tiers.routes)
        return json_response(PolicyResponse(policy.policy, policy.version, its))

    async def show(request: Request) -> Response:
        return shown(await run_sync(policy_of, service.store, tenant_of(request)))

    async def put(request: Request) -> Response:
        tenant, policy = tenant_of(request), parse_policy(await read_body(request, service.settings.max_body))
        done = await run_sync(set_policy, service.store, tenant, policy, actor_of(request))
        service.policies.forget(tenant)
        return shown(done)

    return [
        Operation(
            "GET", "/v1/policy", "getPolicy", "What the tenant decided: tiers, routes, worth, events and agreement.",
            show, PolicyResponse, scope="admin",
        ),
        Operation(
            "PUT", "/v1/policy", "putPolicy",
            "Put a policy in force, in the place of the one before; all workers follow within 5 seconds.",
            put, PolicyResponse, Policy, _EXAMPLE,
            {
                400: "The body is not JSON.", 413: "The body is too large.", 415: "The body is said not to be JSON.",
                422: "A field is wrong; `field` says which. The policy before stays in force.",
            },
            scope="admin", idempotent=True,
        ),
    ]  # fmt: skip
