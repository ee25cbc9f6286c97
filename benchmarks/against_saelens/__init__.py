"""Our metrics beside SAELens' own."""
