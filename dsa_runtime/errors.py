"""Every error the SDK raises on purpose. Catch `DsaError` to catch them all."""

from __future__ import annotations


class DsaError(Exception):
    """Root of all errors raised by the DSA Runtime."""


class WorldError(DsaError, ValueError):
    """A world package is missing, damaged, unsafe or of an unknown version. Names the file and the field."""


class ActionError(DsaError, ValueError):
    """An action does not belong to the world's action space."""


class BudgetError(DsaError, ValueError):
    """A tick was asked to spend an impossible amount: a budget, a threshold or a number of steps."""


class PromptError(DsaError, ValueError):
    """A prompt is no name that the world knows, and no embeddings of its width; or the world takes no text."""


class QualityError(DsaError, ValueError):
    """A quality was asked for that makes no sense, or that the world does not promise. Says what it offers."""


class SessionError(DsaError, RuntimeError):
    """A session was used in a way its state does not allow (closed, busy in another thread, bad seed)."""


class EngineError(DsaError, RuntimeError):
    """A graph failed while running. The session is as it was before the call."""


class DeadlineError(DsaError, TimeoutError):
    """A tick of a session with `on_miss="raise"` was not ready in time. The session is as before the call."""


class CancelledError(DsaError):
    """`Session.cancel` stopped this call. The session is as before it."""


class SnapshotError(DsaError, ValueError):
    """A snapshot is damaged, of another world or of an unknown version."""


class RecordingError(DsaError, ValueError):
    """A recording is damaged, of another world, or replays to other frames."""


class DiagnosisError(DsaError, ValueError):
    """A diagnosis is damaged, or was made for another world or another machine. Names the field."""


class ServingError(DsaError, ValueError):
    """A server was asked for something unsafe or impossible: an address, a key, a limit. Says what to change."""


class ServerError(DsaError, RuntimeError):
    """A server refused a request for a reason that has no class of its own, or answered with what makes no sense."""

    def __init__(self, message: str, *, code: str = "", retry: bool = False) -> None:
        super().__init__(message)
        self.code = code
        """As in the protocol: `version`, `unsupported`, `internal`, ...; empty if the server did not say one."""
        self.retry = retry
        """Whether the same request may succeed later."""


class BusyError(ServerError):
    """A server has no room for what was asked for now. Nothing has happened; try again later, or elsewhere."""


class ServerGoneError(ServerError, ConnectionError):
    """A server does not answer, has restarted, or has given the session up. Other sessions may live on."""

    def __init__(self, message: str, *, code: str = "", snapshot: bytes | None = None) -> None:
        super().__init__(message, code=code)
        self.snapshot = snapshot
        """The session as the server handed it back, for `restore` elsewhere; None if it could not."""
