"""BadLink: two network namespaces and a wire between them that delays, loses and is cut.

The wire is this process: each namespace has a TUN device, and packets are carried over by hand. So it needs root and
/dev/net/tun, but neither `netem`, which many kernels lack, nor any rule of a firewall.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import threading
from time import monotonic

NEAR_HOST, FAR_HOST = "10.77.0.1", "10.77.0.2"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_PACKET_BYTES = 1 << 16


def missing() -> str | None:
    """What this machine lacks for a bad link, in words; None if nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    if not os.path.exists("/dev/net/tun"):
        return "a bad link needs /dev/net/tun"
    probe = f"dsa-probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        return "network namespaces are not allowed here"
    subprocess.run(["ip", "netns", "delete", probe], check=True)
    return None


class BadLink:
    """`near` and `far` are names of namespaces, for `ip netns exec`. Use it in a `with` statement."""

    def __init__(self) -> None:
        self.near, self.far = f"dsa-near-{os.getpid()}", f"dsa-far-{os.getpid()}"
        self.delay_s = 0.0
        """Each way."""
        self.loss = 0.0
        """Share of packets that are dropped."""
        self.cut = False
        self.lost = 0
        """Packets dropped so far, by loss or cut."""
        self._random = random.Random(7)
        self._ends: list[int] = []
        self._stop, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> BadLink:
        hosts = ((self.near, NEAR_HOST, FAR_HOST), (self.far, FAR_HOST, NEAR_HOST))
        try:
            for name, host, peer in hosts:
                _ip("netns", "add", name)
                self._ends.append(_in_namespace(name))
                _ip("-n", name, "address", "add", host, "peer", peer, "dev", "dsa0")
                for device in ("lo", "dsa0"):
                    _ip("-n", name, "link", "set", device, "up")
        except BaseException:
            self._remove()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._wake, b"x")
        self._thread.join()
        self._remove()

    def _remove(self) -> None:
        for file in (*self._ends, self._stop, self._wake):
            os.close(file)
        for name in (self.near, self.far):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    def _carry(self) -> None:
        one, other = self._ends
        under_way: list[tuple[float, int, int, bytes]] = []  # due, order, to, packet
        order = 0
        while True:
            wait = max(0.0, under_way[0][0] - monotonic()) if under_way else None
            ready, _, _ = select.select([one, other, self._stop], [], [], wait)
            if self._stop in ready:
                return
            for end in ready:
                packet = os.read(end, _PACKET_BYTES)
                if self.cut or self._random.random() < self.loss:
                    self.lost += 1
                    continue
                order += 1
                heapq.heappush(under_way, (monotonic() + self.delay_s, order, other if end == one else one, packet))
            while under_way and under_way[0][0] <= monotonic():
                _, _, end, packet = heapq.heappop(under_way)
                os.write(end, packet)


def _in_namespace(name: str) -> int:
    """A TUN device "dsa0" of a namespace, as a file. Opened on a thread of its own, which alone enters it."""
    opened: list[int] = []
    problems: list[OSError] = []

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            with open(f"/run/netns/{name}") as namespace:
                if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            file = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", b"dsa0", _IFF_TUN | _IFF_NO_PI))
            opened.append(file)
        except OSError as error:
            problems.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]
    return opened[0]


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
