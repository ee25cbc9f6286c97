"""Pages over the store, for looking around: a server of this machine alone.

It reads, and writes nothing but stars and notes. Begin with `app.py`; pages are in `pages/`.
"""

HOST = "127.0.0.1"
PORT = 4300
"""Where it listens, unless another port is named."""
