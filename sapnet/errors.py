"""The exceptions that this package raises on purpose."""

from __future__ import annotations


class SapnetError(Exception):
    """Base of this package's errors; the text says what was got, what was expected and what to do."""


class CheckpointError(SapnetError):
    """Weights are missing, damaged or do not fit the network."""


class BackendError(SapnetError):
    """A backend is missing, cannot run here, or returned a wrong result."""


class UnfitEngineError(BackendError):
    """An engine does not run here or gives wrong results; it is removed, and another one may be built."""


class EngineCacheError(SapnetError):
    """A compiled engine cannot be stored, or what is stored cannot be trusted."""


class ImageFormatError(SapnetError):
    """A frame or image message is malformed, or its format is not supported.

    ``kind`` is a short, stable word for counting and for throttled logging: one of ``encoding``,
    ``size``, ``step``, ``data``, ``decode``, ``limit``.
    """

    def __init__(self, message: str, kind: str = "data") -> None:
        super().__init__(message)
        self.kind = kind


class BagError(SapnetError):
    """A recording cannot be read or written."""


def describe(err: Exception) -> str:
    """The text of an expected error; an unexpected one also says its type."""
    return str(err) if isinstance(err, SapnetError) else f"{type(err).__name__}: {err}"


def first_line(said: BaseException | str) -> str:
    """The first line of a library's message, without a full stop, or an exception's class where it has none."""
    return str(said).strip().partition("\n")[0].rstrip().rstrip(".") or type(said).__name__
