"""The link: the packet socket, what the kernel knows of it, and the thread that drives the protocol on it."""
