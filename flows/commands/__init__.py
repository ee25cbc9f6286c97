"""Commands that run flows, where `flows.cli` has no room for them, and what they share."""
