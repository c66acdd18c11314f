"""The host's agent: Docker's IPAM driver, the keeper of the host's claims, and the watch over them."""
