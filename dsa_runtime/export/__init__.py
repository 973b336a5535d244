"""What becomes of a recording elsewhere: films with the decisions drawn on, tables of its ticks, a Rerun log.

Frames are not in a recording, so they are drawn again while the file is written: memory does not grow with their
number. A file appears under its name when it is whole.
"""

from .write import SUFFIXES, Exported, check, export

__all__ = ["SUFFIXES", "Exported", "check", "export"]
