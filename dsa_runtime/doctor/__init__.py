"""Doctor: measures what a world costs on this machine, and says which rates hold.

diagnosis = examine(world)                        # about a minute
diagnosis.save("robot.json")
world.session(diagnosis=Diagnosis.load("robot.json"))

diagnosis     what was found, as a value: quantiles, verdicts, advice; to and from JSON
examination   the order in which it is measured
verdicts      from costs of ticks to "30 Hz holds at 2 steps"; pure arithmetic
advice        from figures to sentences; pure
timers        how late this machine wakes a thread that waits
load          busy processes to measure beside
host          what the operating system says about itself
"""

from __future__ import annotations

from .diagnosis import Diagnosis as Diagnosis
from .examination import examine as examine

__all__ = ["Diagnosis", "DiagnosisError", "examine"]
