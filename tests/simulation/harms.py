"""What a fault does to a simulated process, and what its end does."""

from simulation.process import REFUSALS, Lie, ShardProcess
from simulation.schedule import Fault, Harm


def befall(process: ShardProcess, fault: Fault, now_s: float) -> None:
    """The fault begins."""
    process.was_harmed = True
    match fault.harm:
        case Harm.KILL:
            process.kill()
        case Harm.FREEZE:
            process.frozen_until_s = now_s + fault.lasts_s
        case Harm.SLOW:
            process.slowness = fault.factor
        case Harm.REFUSE:
            process.refusal = REFUSALS[fault.which % len(REFUSALS)]
        case Harm.LIE:
            process.lie = list(Lie)[fault.which]
        case Harm.FORGET:
            process.versions = set()


def pass_by(process: ShardProcess, fault: Fault, version: int) -> None:
    """The fault ends; who starts anew opens `version`, the topology's."""
    match fault.harm:
        case Harm.KILL | Harm.FORGET:
            process.start(version)
        case Harm.SLOW:
            process.slowness = 1.0
        case Harm.REFUSE:
            process.refusal = None
        case Harm.LIE:
            process.lie = None
