"""A first configuration for texts and a model, with the reasons for what is in it."""

from deconstruct.suggest.write import default_file, suggest

__all__ = ["default_file", "suggest"]
