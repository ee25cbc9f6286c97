"""Any text through a run's model and dictionary: which latents fire on it, where, how strongly."""

from deconstruct.firing.firer import Firer, fire
from deconstruct.firing.firings import Firings, Top

__all__ = ["Firer", "Firings", "Top", "fire"]
