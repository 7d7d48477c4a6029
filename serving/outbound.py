"""Requests to addresses that others name: only to where anybody could send them, unless the operator says otherwise."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from threading import Timer
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from features.errors import TouchstoneError

Address: TypeAlias = tuple[socket.AddressFamily, Any]
"""A family, and what `connect` takes: numbers, no name that could mean another address the next time."""
_LONGEST = 2_000
_NAT64 = IPv6Network("64:ff9b::/96")


class OutboundError(TouchstoneError):
    """A request that may not be sent, or that was not answered."""


class NoAddressError(OutboundError):
    """A name that leads nowhere now."""


class Target(NamedTuple):
    """A URL in parts.

    >>> Target.of("https://crm.example/hooks?id=7", private=False)
    Target(tls=True, host='crm.example', port=443, netloc='crm.example', path='/hooks?id=7')
    """

    tls: bool
    host: str
    port: int
    netloc: str
    path: str

    @classmethod
    def of(cls, url: str, *, private: bool) -> Target:
        """Reads a URL; plain http is for private networks. Raises OutboundError for anything else."""
        try:
            if len(url) > _LONGEST or not url.isascii() or not url.isprintable() or " " in url:
                raise ValueError
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise OutboundError(f"{url[:80]!a} is no URL. Send e.g. https://crm.example/hooks.") from None
        if parts.scheme not in ("https", "http") or not host or parts.username is not None:
            raise OutboundError(f"{url[:80]!a} is no URL to send to. Send e.g. https://crm.example/hooks.")
        tls = parts.scheme == "https"
        if not (tls or private):
            raise OutboundError(f"{url[:80]!a} would be sent in the open. Send https://.")
        path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        return cls(tls, host, port or (443 if tls else 80), parts.netloc, path)

    def addresses(self, *, private: bool) -> list[Address]:
        """Looks the host up.

        Raises NoAddressError if it has no address, OutboundError if it has one that is not public.
        """
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise NoAddressError(f"the name {self.host[:80]!a} has no address. Check it.") from None
        for _, _, _, _, address in found:
            if not (private or is_public(str(address[0]))):
                raise OutboundError(
                    f"{self.host[:80]!a} is not a public address. Send one, or have the operator set "
                    "TOUCHSTONE_WEBHOOK_PRIVATE=true."
                )
        return [(family, address) for family, _, _, _, address in found]


def is_public(text: str) -> bool:
    """Whether an address is one that anybody on the internet may send to.

    >>> is_public("93.184.215.14"), is_public("10.0.0.1"), is_public("::ffff:127.0.0.1")
    (True, False, False)
    """
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and (inner := _inner(address)) is not None:
        return is_public(str(inner))
    special = address.is_multicast or address.is_reserved or address.is_link_local or address.is_unspecified
    return address.is_global and not special


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The address of the old kind to which one of the new kind leads, if it does."""
    teredo = address.teredo
    return (
        address.ipv4_mapped
        or address.sixtofour
        or (teredo[1] if teredo else None)
        or (IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None)
    )


def post(url: str, body: bytes, headers: Mapping[str, str], *, private: bool, seconds: float) -> int:
    """Posts JSON and returns the status; follows no redirect, and keeps nothing of the answer.

    Raises OutboundError if it may not be sent there, or was not answered within some seconds.
    """
    target = Target.of(url, private=private)
    connection = _Pinned(target, target.addresses(private=private), seconds)
    deadline = Timer(seconds, connection.abort)
    deadline.daemon = True
    deadline.start()
    try:
        told = {"Host": target.netloc, "Content-Type": "application/json", "User-Agent": "Touchstone/1"}
        connection.request("POST", target.path, body, {**told, **headers})
        status = connection.getresponse().status
    except (OSError, HTTPException, ValueError) as problem:
        if connection.aborted or isinstance(problem, TimeoutError):
            raise OutboundError(f"it did not answer within {seconds:g} s") from None
        raise OutboundError(f"it did not answer: {type(problem).__name__}") from None
    finally:
        deadline.cancel()
        connection.close()
    if connection.aborted:
        # Headers that end in the middle pass for an answer.
        raise OutboundError(f"it did not answer within {seconds:g} s")
    return status


class _Pinned(HTTPConnection):
    """A connection to the very addresses that were looked at: its name is looked up no second time."""

    def __init__(self, target: Target, addresses: Sequence[Address], seconds: float) -> None:
        super().__init__(target.host, target.port, timeout=seconds)
        self.aborted = False
        self._tls = target.tls
        self._addresses = addresses

    def connect(self) -> None:
        for place, (family, address) in enumerate(self._addresses):
            self.sock = socket.socket(family, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            try:
                self.sock.connect(address)
                break
            except OSError:
                self.sock.close()
                if self.aborted or place == len(self._addresses) - 1:
                    raise
        if self._tls:
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock.do_handshake()

    def abort(self) -> None:
        """Ends it from another thread, whatever it waits for: one that answers a byte at a time is not waited for."""
        self.aborted = True
        found = self.sock
        if found is not None:
            try:
                socket.socket.shutdown(found, socket.SHUT_RDWR)
            except OSError:
                return
