"""The addresses that a server listens on."""

import socket
import sys
from typing import NamedTuple

ALL_INTERFACES = "::"  # IPv4 as well


class Address(NamedTuple):
    family: socket.AddressFamily
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.family == socket.AF_INET6 else f"{self.host}:{self.port}"


def resolve(host: str, port: int) -> list[Address]:
    """Resolve a host name or an IPv4 or IPv6 address, with or without brackets; exits if that is impossible."""
    host = host.removeprefix("[").removesuffix("]")
    if host == ALL_INTERFACES and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else "not a host name"
        sys.exit(f"transformer.py: cannot resolve --host {host}: {reason}; give an address of this machine")
    return [Address(family, str(address[0]), port) for family, _, _, _, address in found]


def listen(address: Address) -> socket.socket:
    """A socket bound to an address; exits if that is impossible."""
    listener = socket.socket(address.family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if address.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address.host != ALL_INTERFACES)
    try:
        listener.bind((address.host, address.port))
    except OSError as error:
        sys.exit(f"transformer.py: cannot listen on {address}: {error.strerror}; choose another --host or --http_port")
    return listener
