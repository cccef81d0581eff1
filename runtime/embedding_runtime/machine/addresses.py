"""Who reaches an address that a server listens at."""

import ipaddress
import socket


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host, a name or an address.

    Raises:
        OSError: it is no address of this machine.
    """
    entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in entries]
    return all(address.is_loopback for address in addresses)
