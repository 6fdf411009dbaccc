"""What can go wrong between a program and this host's kernel."""


class LiveError(ValueError):
    """The host cannot do what is asked for, or did not: says what is missing."""
