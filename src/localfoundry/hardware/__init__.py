"""What this machine has: processor, memory and its bandwidth, disks, accelerators.

Readers are pure functions over what the system says (`readings.py`), so that recorded machines can be tested. What a
system does not tell is None, "unknown" or missing from a list; nothing is derived from a product's name.
"""
