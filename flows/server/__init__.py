"""The Prefect servers that our commands start: who may speak with them, how they end."""
