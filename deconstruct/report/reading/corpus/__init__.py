"""What the documents of a run are together: on a map, in clusters, by label, over time."""
