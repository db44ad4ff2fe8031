"""Describe through a vendor's batch interface: half the price, answers within a day, nothing paid twice after a
kill."""
