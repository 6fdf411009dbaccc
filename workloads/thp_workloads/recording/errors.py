"""What goes wrong when a program is recorded."""


class RecordingError(ValueError):
    """A program that cannot be recorded: one line that says why."""
