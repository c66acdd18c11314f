"""What holds where neither the command line nor a file says otherwise."""

from pathlib import Path

DEFAULT_INTERFACE = "docker0"
DEFAULT_FABRIC = Path("/etc/arpipam/fabric.toml")
DEFAULT_STATE_DIR = Path("/var/lib/arpipam")
DEFAULT_SOCKET = Path("/run/docker/plugins/arpipam.sock")
DEFAULT_MISS_PROBABILITY = 1e-6
DEFAULT_RATE = 5000  # frames a second: a real LAN takes that well
