"""How the check runs: each part in a process of its own, within a budget of time."""
