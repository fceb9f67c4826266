"""The exceptions a user is meant to read."""


class UserError(Exception):
    """Bad input: one line that names the file, the record or key, what was expected and what to do.

    Every command prints it as ``error: <message>`` and exits with code 2, without a traceback.
    """


class BadRecord(UserError):
    """One record of a data file cannot be used; the others can. ``--max-bad-records`` says how many are passed over."""
