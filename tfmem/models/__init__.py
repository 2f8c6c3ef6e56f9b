"""Models: cores put together as the papers do."""

from tfmem.models.multigrid import LocalizationModel, MNISTRecallModel

__all__ = ["LocalizationModel", "MNISTRecallModel"]
