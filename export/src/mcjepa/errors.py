"""What goes wrong for a reason that the user can mend: the command line says it in one line."""


class McjepaError(RuntimeError):
    """Base of this package's own errors. Other RuntimeErrors are torch's, and keep their traceback."""
