"""Models with multigrid memory (Huynh et al. 2020): localization, recall, sorting and question answering.

`LocalizationModel` and `MNISTRecallModel` are the networks of the public code (github.com/trihuynh88/multigrid_mem);
`RecallModel`, `SortModel` and `QuestionAnsweringModel` those that supplement B.2 and B.3 describe. `run` is
time-major, `call` batch-major.
"""

from tfmem.models.multigrid.localization import LocalizationModel, fold_query
from tfmem.models.multigrid.question_answering import QuestionAnsweringModel
from tfmem.models.multigrid.recall import IMAGE_SIDE, MNISTRecallModel, RecallModel
from tfmem.models.multigrid.sort import SortModel
from tfmem.models.multigrid.stacks import nearest_neighbour

__all__ = [
    "IMAGE_SIDE",
    "LocalizationModel",
    "MNISTRecallModel",
    "QuestionAnsweringModel",
    "RecallModel",
    "SortModel",
    "fold_query",
    "nearest_neighbour",
]
