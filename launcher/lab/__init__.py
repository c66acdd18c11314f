"""The agent in the lab: agents on its hosts, and the demonstration."""
