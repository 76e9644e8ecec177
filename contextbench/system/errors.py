"""What a user did or has to mend, as opposed to faults of this software."""


class UserError(Exception):
    """Base of errors whose message is meant for the user: no traceback, exit code 2."""
