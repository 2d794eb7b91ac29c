"""The torture test: real processes on real backends, killed, paused, cut off and misled, and a checker behind them.

``plan`` draws from the seed what everybody does; ``nursery`` forks the processes; ``roles`` is what they do, ``faults``
what goes wrong inside them and ``lines`` what goes wrong between them and their servers; ``journal`` is what they
write down; ``conductor`` runs it all; ``evidence`` gathers what is left, ``verdict`` judges it, ``report`` tells it.
``bare`` and ``engines`` look at the engines without onerow, and ``plain`` is a plain MERGE to compare with.
"""

from onerow.testing.chaos.conductor import run
from onerow.testing.chaos.plan import Options, any_seed
from onerow.testing.chaos.report import Report

__all__ = ["Options", "Report", "any_seed", "run"]
