"""Service: what systemd wants to know of a program that it runs (`Type=notify`), as sd_notify(3) describes it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def notify(state: str) -> bool:
    """Tell systemd, for example "READY=1". False where it did not start this program, or does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)
        return True
    return False


def watchdog_s() -> float | None:
    """Seconds within which systemd wants to hear WATCHDOG=1 of this process; None if it does not watch it."""
    interval = os.environ.get("WATCHDOG_USEC", "")
    if not (interval.isascii() and interval.isdigit() and int(interval)):
        return None
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(interval) / 1e6
