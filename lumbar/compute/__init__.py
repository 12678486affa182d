"""How networks are run: engines, cores and processes, and what a device can do wrong. Knows no study."""
