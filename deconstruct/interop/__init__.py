"""A run taken out, for other programs: folders in their layouts, with a model card, and the hub."""
