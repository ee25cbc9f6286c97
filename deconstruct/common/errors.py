"""The errors that Deconstruct raises on purpose: each message is a sentence for the person who
runs it, naming the field or file, the value found, and what to do."""


class DeconstructError(Exception):
    """Something the user can put right. The CLI prints the message alone, without a traceback."""


class ConfigError(DeconstructError):
    """A configuration that can't be run; the message names field, value and remedy."""


class DataError(DeconstructError):
    """Input text, labels or activations that a stage can't work with."""


class SourceUnreachable(DeconstructError):
    """A model or data set that is neither on this machine nor within reach."""


class StorageError(DeconstructError):
    """The data root can't be written, is full, or misses an artifact that a stage needs."""
