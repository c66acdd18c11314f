"""One network of the agent: a pool of addresses on a link, and the claims that this host holds there."""
