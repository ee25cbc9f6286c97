"""Forms that texts come in: packed files, many files, JSON arrays, plain text, chats, the hub."""
