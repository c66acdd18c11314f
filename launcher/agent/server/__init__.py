"""The agent's socket: Docker's IPAM protocol and the agent's own API, over HTTP."""
