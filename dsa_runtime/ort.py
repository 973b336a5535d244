"""ONNX Runtime, imported so that it does not report to its maker.

Its official wheels do unless told otherwise before they are loaded. Whoever wants that can set the variable to 0.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

__all__ = ["ort"]
