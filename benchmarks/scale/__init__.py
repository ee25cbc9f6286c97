"""What grows with a corpus, and what does not."""
