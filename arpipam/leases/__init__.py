"""Leases: the durable record of claims."""
