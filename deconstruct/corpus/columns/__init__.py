"""What a source's columns beside text and label say of documents: labels, groups, splits, more."""
