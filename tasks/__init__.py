"""Thin Prefect tasks over the library: caching, retries, tags. No maths, no SQL."""
