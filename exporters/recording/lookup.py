"""Functions and classes of the user's, named on the command line or in a recipe."""

from __future__ import annotations

import importlib
from typing import Any


def lookup(target: str, what: str) -> Any:
    """What "module:name" names. ValueError says `what` it was wanted for."""
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise ValueError(f"{what}: {target!r} is not of the form module:name")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise ValueError(f"{what}: {module_name!r} cannot be imported ({error}); it must lie on PYTHONPATH") from None
    except AttributeError:
        raise ValueError(f"{what}: {module_name!r} has no {name!r}") from None
    if not callable(found):
        raise ValueError(f"{what}: {target} is not a function")
    return found
