"""Addresses that nobody on the network uses: ARP conflict detection (RFC 5227) and allocation over any link."""
