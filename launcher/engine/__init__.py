"""All that talks to the Docker engine."""
