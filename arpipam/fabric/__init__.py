"""The network itself: declared in one file, made, checked, repaired and removed again.

fabric = load(Path("/etc/arpipam/fabric.toml"))
site = Site(fabric, Path("/var/lib/arpipam"))
print(site.plan().lines)
site.up()
"""

from arpipam.fabric.apply import Site
from arpipam.fabric.config import DeclaredHost, Fabric, load, parse

__all__ = ["DeclaredHost", "Fabric", "Site", "load", "parse"]
