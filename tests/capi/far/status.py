"""Statuses of the header, and which one a call fails with."""

from __future__ import annotations

from typing import Any

import pytest

from dsa_runtime import DsaError
from tests.capi import client

E_START, E_WORLD, E_GONE = -3, -7, -17


def status_of(call: Any, *arguments: Any, **options: Any) -> int:
    """The status that a call fails with."""
    found = []
    library = client.library()

    def keep(name: str, *given: Any) -> int:
        status = int(getattr(library.lib, f"dsa_{name}")(*given))
        found.append(status)
        if status < 0:
            raise DsaError(library.ffi.string(library.lib.dsa_last_error()).decode())
        return status

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "call", keep)
        with pytest.raises(DsaError):
            call(*arguments, **options)
    return next(status for status in found if status < 0)
