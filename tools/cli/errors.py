"""How a command fails: the exit codes, and the exception that carries one. Imports nothing, as `serve` waits for it."""

FAILED, PARTIAL, NOT_FOUND, REFUSED, CANNOT_CONNECT = 1, 3, 4, 5, 6


class ApiError(Exception):
    """The broker said no, or nothing. `exit_code` is what the command ends with."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code
