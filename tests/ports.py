"""Ports for servers that are started a while after their port was chosen."""

from __future__ import annotations

import random
import socket

RANGE = range(20_000, 32_000)
"""Below those that the kernel gives to whoever asks for any port, above those that Ray gives its workers:
between choice and use nobody else comes by one by chance."""

_taken: set[int] = set()


def free_port() -> int:
    """A free port of the loopback interface, another one each time."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many free ports of the loopback interface."""
    choice = random.SystemRandom()
    found: list[int] = []
    while len(found) < count:
        port = choice.choice(RANGE)
        if port not in _taken and _is_free(port):
            _taken.add(port)
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
