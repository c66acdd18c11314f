"""`arpipam-run`: `docker run` with an address that is claimed first."""
