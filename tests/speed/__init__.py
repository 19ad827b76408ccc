"""How fast a worker is, from queue to result: `python -m tests.speed`."""
