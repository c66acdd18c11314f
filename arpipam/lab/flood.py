"""`python -m arpipam.lab.flood SECONDS RATE KIND`: frames of a station that floods, from the namespace it is run in.

A process of its own, so that it takes no time from the interpreter of those who are flooded.
"""

from __future__ import annotations

import random
import socket
import sys
import time

from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket


def flood(seconds: float, rate: int, kind: str) -> int:
    """Send until the time is over; the number of frames sent."""
    rng = random.Random(7)
    frames = []
    for _ in range(4096):
        good = arp.encode(
            ArpPacket(
                rng.choice([1, 2]),
                arp.random_mac(rng),
                rng.choice([0, 0xAC102A00 | rng.randrange(200, 255), rng.getrandbits(32)]),
                rng.randbytes(6),
                0xAC102A00 | rng.randrange(200, 255),
                arp.random_mac(rng),
                arp.BROADCAST,
            )
        )
        if kind == "garbage" or (kind == "mixed" and rng.getrandbits(1)):
            cut = rng.choice([rng.randbytes(28), good[14:24], good[14:18] + rng.randbytes(20)])
            good = good[:14] + cut
        frames.append(good)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0))
        start = time.monotonic()
        sent = 0
        while (passed := time.monotonic() - start) < seconds:
            while sent < passed * rate:
                try:
                    sock.send(frames[sent % 4096])
                except OSError:  # no room just now: the next turn tries again
                    break
                sent += 1
            time.sleep(0.0005)
    return sent


if __name__ == "__main__":
    print(flood(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))  # noqa: T201 - the count is the output
