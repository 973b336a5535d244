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


class SessionError(DsaError, RuntimeError):
    """A session was used in a way its state does not allow (closed, busy in another thread, bad seed)."""


class EngineError(DsaError, RuntimeError):
    """A graph failed while running. The session is as it was before the call."""
