"""The exceptions a user is meant to read."""


class UserError(Exception):
    """Bad input: one line that names the file, the record or key, what was expected and what to do.

    Every command prints it as ``error: <message>`` and exits with code 2, without a traceback. Line breaks that come
    with a name from a file become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class BadRecord(UserError):
    """One record of a data file cannot be used; the others can. ``--max-bad-records`` says how many are passed over."""
