"""The agent's file, /etc/arpipam/agent.toml."""
