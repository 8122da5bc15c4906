"""The process while it runs: learned by a search, or replayed from a record.

Both answer the same question: what do the losses weigh, and how hot are they, at this progress of training?
The losses are unit-scaled (`search.training.losses`), so one range of weights fits all of them.
"""

from search.process.effective import Effective
from search.process.learned import MIN_TEMPERATURE, LearnedProcess
from search.process.meta_parameters import LearnedMetaParameters
from search.process.normalisations import Normalisation
from search.process.replayed import ReplayedProcess, with_scales

__all__ = [
    "MIN_TEMPERATURE",
    "Effective",
    "LearnedMetaParameters",
    "LearnedProcess",
    "Normalisation",
    "ReplayedProcess",
    "with_scales",
]
