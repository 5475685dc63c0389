"""How a deployment fails: in one line that the user can act on."""


class Failure(Exception):
    """The store or the cluster did not do what was asked; the message is one line for the user."""

    exit_code = 1


class BadInput(Failure):
    """What the user gave cannot work; the message is one line that says what to do."""

    exit_code = 2
