"""Hosts on one machine, for tests, benchmarks and the demo: real namespaces, bridges, engines and Open vSwitch.

    with Lab() as lab:
        lan = lab.wire()
        host1 = lab.host("host1", lan, "172.16.42.1/24", engine=True)
        host2 = lab.host("host2", lan, "172.16.42.2/24", engine=True)
        lab.station("printer", lan, "172.16.42.3/24")
        lab.start()                               # engines, side by side
        host1.docker("run", "--rm", "busybox", "true")
        lan.loss = 10                             # percent of the frames on their way to each receiver
        lan.cut(host2)

Everything is named after the lab's own id and recorded below /run/arpipam-lab (ARPIPAM_LAB); nothing of it is left when
the lab ends, and `python -m arpipam.lab clean` removes what a killed run left. The machine's own interfaces are never
touched.
"""

from arpipam.lab.engine import CLIENTS
from arpipam.lab.host import Host
from arpipam.lab.lab import Lab
from arpipam.lab.namespace import Namespace
from arpipam.lab.wire import Wire

__all__ = ["CLIENTS", "Host", "Lab", "Namespace", "Wire"]
