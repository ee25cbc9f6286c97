"""How documents that came since a training differ from those before."""
