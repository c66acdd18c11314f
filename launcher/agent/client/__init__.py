"""Clients of the agent's API."""
