"""The error tree: one root, and the built-in types that callers expect beside it."""

from __future__ import annotations

import pytest

from dsa_runtime import (
    ActionError,
    BudgetError,
    BusyError,
    CancelledError,
    DeadlineError,
    DiagnosisError,
    DsaError,
    EngineError,
    QualityError,
    RecordingError,
    ServerError,
    ServerGoneError,
    SessionError,
    SnapshotError,
    WorldError,
)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (WorldError, ValueError), (ActionError, ValueError), (BudgetError, ValueError),
        (SessionError, RuntimeError), (EngineError, RuntimeError), (DeadlineError, TimeoutError),
        (CancelledError, Exception), (SnapshotError, ValueError), (RecordingError, ValueError),
        (DiagnosisError, ValueError), (QualityError, ValueError),
        (ServerError, RuntimeError), (BusyError, ServerError), (ServerGoneError, ConnectionError),
    ],
)  # fmt: skip
def test_every_error_has_the_root_and_a_builtin_type(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, DsaError)
    assert issubclass(error, builtin)
    with pytest.raises(DsaError, match=r"^why$"):
        raise error("why")
