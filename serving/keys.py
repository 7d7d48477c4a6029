"""API keys: made, listed, rotated and revoked; each change stands in the audit log."""

from __future__ import annotations

import hmac
import secrets
import time
from base64 import b32decode, b32encode
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

from msgspec.structs import replace

from features.errors import TouchstoneError, UsageError
from serving.background import SYSTEM
from serving.store import Entry, Key, Store

SCOPES = {
    "ingest": "send leads, touchpoints and outcomes",
    "score": "score leads that come with the request",
    "read": "read leads, their scores, the model and the metrics",
    "admin": "reload models, delete people, and set the policy and webhooks",
    "import": "ingest, where touches count as known when they occurred: for loading the past",
}
"""What a key may be for, and what that lets it do."""
_US = 1_000_000


def create_key(store: Store, tenant: str, name: str, scopes: Sequence[str], actor: str) -> tuple[Key, str]:
    """Makes a key; returns it and what its holder sends, which can be had but this once.

    Raises UsageError if a scope is unknown or there is none, or if the tenant is the service itself.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise UsageError(f"--scope {scope}: there is no such scope. Use {', '.join(SCOPES)}.")
    if tenant == SYSTEM:
        raise UsageError(f"--tenant {tenant}: that name is the service's own. Name another one.")
    if not scopes:
        raise UsageError(f"a key needs --scope: one or more of {', '.join(SCOPES)}.")
    key, token = _new(tenant, name, tuple(dict.fromkeys(scopes)))
    store.put(tenant, [key, _entry(actor, "key created", key.id, name=name, scopes=[*key.scopes])]).result()
    return key, token


def rotate_key(store: Store, key_id: str, grace: float, actor: str) -> tuple[Key, str]:
    """Makes a key of the same name and scopes; the old one holds for `grace` seconds more.

    Returns the new key and what its holder sends. Raises TouchstoneError if there is no such key or it is revoked.
    """
    tenant, old = _valid(store, key_id)
    now = _now()
    new, token = _new(tenant, old.name, old.scopes)
    until = now + round(grace * _US)
    entry = _entry(actor, "key rotated", old.id, to=new.id, grace_seconds=grace)
    store.put(tenant, [replace(old, rotated_at=now, revoked_at=until), new, entry]).result()
    return new, token


def revoke_key(store: Store, key_id: str, actor: str) -> Key:
    """Makes a key worth nothing from now on. Raises TouchstoneError if there is none or it is revoked already."""
    tenant, old = _valid(store, key_id)
    key = replace(old, revoked_at=_now())
    store.put(tenant, [key, _entry(actor, "key revoked", key.id, name=key.name)]).result()
    return key


def list_keys(store: Store, tenant: str | None = None) -> list[tuple[str, Key]]:
    """Returns the keys of one tenant or of all, each with whose it is."""
    tenants = store.tenants() if tenant is None else [tenant]
    return [(each, key) for each in tenants for key in store.find(Key, each, limit=100_000)]


def has_keys(store: Store) -> bool:
    """Whether anybody was ever given a key."""
    return any(store.find(Key, each, limit=1) for each in store.tenants())


def is_valid(key: Key, now: int) -> bool:
    """Whether a key holds at an instant, in microseconds."""
    return key.revoked_at is None or now < key.revoked_at


def matches(key: Key, secret: str) -> bool:
    """Whether a secret is that of a key, in a time that tells nothing of how far it is.

    256 random bits cannot be guessed, so a slow hash would protect nothing.
    """
    return hmac.compare_digest(key.hash, _hash(secret))


def parse(token: str) -> tuple[str, str, str] | None:
    """Splits what a holder sends into tenant, id and secret; None if it cannot be a key.

    >>> parse("ts_mfrw2zi-5f0c1a2b_b6c1")
    ('acme', 'mfrw2zi-5f0c1a2b', 'b6c1')
    """
    mark, _, rest = token.partition("_")
    key_id, _, secret = rest.partition("_")
    tenant = tenant_of_key(key_id)
    return (tenant, key_id, secret) if mark == "ts" and secret and tenant is not None else None


@lru_cache(1_024)
def tenant_of_key(key_id: str) -> str | None:
    """Whose key it is by its id, which begins with the tenant: PostgreSQL shows no row until that is known."""
    written, dash, _ = key_id.partition("-")
    try:
        tenant = b32decode(written.upper() + "=" * (-len(written) % 8)).decode()
    except ValueError:
        return None
    return tenant if tenant and dash and "\0" not in tenant and len(tenant) <= 200 else None


def _new(tenant: str, name: str, scopes: tuple[str, ...]) -> tuple[Key, str]:
    secret = secrets.token_hex(32)
    written = b32encode(tenant.encode()).decode().rstrip("=").lower()
    key_id = f"{written}-{secrets.token_hex(4)}"
    return Key(id=key_id, name=name, hash=_hash(secret), scopes=scopes, created_at=_now()), f"ts_{key_id}_{secret}"


def _valid(store: Store, key_id: str) -> tuple[str, Key]:
    tenant = tenant_of_key(key_id)
    found = [] if tenant is None else store.find(Key, tenant, {"id": key_id})
    if tenant is None or not found:
        raise TouchstoneError(f"there is no key {key_id!r}. `touchstone keys list` shows them.")
    if found[0].revoked_at is not None:
        raise TouchstoneError(f"key {key_id!r} is revoked or rotated already. Make another: touchstone keys create.")
    return tenant, found[0]


def _entry(actor: str, action: str, subject: str, **detail: object) -> Entry:
    return Entry(at=_now(), id=secrets.token_hex(8), actor=actor, action=action, subject=subject, detail=detail)


def _hash(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def _now() -> int:
    return time.time_ns() // 1_000
