"""Which addresses may be called: public ones, and private ones that the settings list.

A name is resolved once and the address that was judged is the one that is called, so that a name
which changes its mind in between (DNS rebinding) leads nowhere.
"""

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from service.core.errors import PeerRefused, PeerUnavailable

Address = IPv4Address | IPv6Address


def callable_addresses(host: str, port: int, *, allowed_networks: Sequence[str]) -> Sequence[str]:
    """Return the addresses to call for a host name, the best first.

    Raises
    ------
    PeerUnavailable
        ``NAME``: it cannot be resolved now.
    PeerRefused
        ``ADDRESS``: it leads to a private, loopback, link-local or otherwise special address that
        is not listed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise PeerUnavailable("NAME", f"{host} cannot be resolved") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not may_call(address, allowed_networks=allowed_networks):
            raise PeerRefused(
                "ADDRESS", f"{host} leads to an address that is neither public nor listed"
            )
    return addresses


def may_call(address: str, *, allowed_networks: Sequence[str]) -> bool:
    """Return whether an address is public, or listed.

    >>> may_call("169.254.169.254", allowed_networks=()), may_call("9.9.9.9", allowed_networks=())
    (False, True)
    >>> may_call("10.0.0.7", allowed_networks=("10.0.0.0/8",))
    True
    """
    found = _plain(ip_address(address.partition("%")[0]))
    networks = [ip_network(network, strict=False) for network in allowed_networks]
    if any(found in network for network in networks):
        return True
    return found.is_global and not found.is_multicast


def _plain(found: Address) -> Address:
    """Return the IPv4 address that an IPv6 one wraps (mapped, 6to4, Teredo, NAT64)."""
    if isinstance(found, IPv4Address):
        return found
    if found.ipv4_mapped is not None:
        return found.ipv4_mapped
    if found.sixtofour is not None:
        return found.sixtofour
    if found in ip_network("64:ff9b::/96"):
        return IPv4Address(int(found) & 0xFFFFFFFF)
    return found
