"""The one exception of the local AWS: what a client sees as a ClientError with `code`."""

from __future__ import annotations


class AwsError(Exception):
    """An error answer of an AWS JSON API. `code` is the exception's name without a namespace."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


def validation(message: str) -> AwsError:
    return AwsError("ValidationException", message)


def table_not_found(name: str) -> AwsError:
    return AwsError(
        "ResourceNotFoundException", f"Requested resource not found: Table: {name} not found"
    )


class SandboxError(Exception):
    """The sandbox cannot do what it was asked; the message says why and what is missing."""
