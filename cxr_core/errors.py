"""The one exception a user is meant to see."""


class UserError(ValueError):
    """A mistake that the user can mend: in a config, a file, a folder or a command.

    The message says what was wrong, where (file, row, value), and what to do. The command line prints it without a
    traceback and exits with 2; any other exception is a defect of ours and keeps its traceback.
    """

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what, self.where, self.mend = what, where, mend
        first = f"{where}: {what}" if where else what
        super().__init__(f"{first}\n  -> {mend}" if mend else first)
