"""Pages over the store, for looking around: a server of this machine alone.

It reads, and writes nothing but stars and notes. Begin with `app.py`; pages are in `pages/`.
"""
