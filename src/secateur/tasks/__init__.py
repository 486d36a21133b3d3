"""What networks are for: each task says how a network is called, what it learns from and how well it does."""

from secateur.core.task import Meter, Metric, Task
from secateur.tasks.classification import ACCURACY, CLASSIFICATION, Classification
from secateur.tasks.custom import Custom
from secateur.tasks.detection import Detection
from secateur.tasks.named import TASKS, read_task, task_of
from secateur.tasks.regression import Regression
from secateur.tasks.restoration import Restoration
from secateur.tasks.retrieval import Retrieval
from secateur.tasks.segmentation import Segmentation

__all__ = [
    "ACCURACY",
    "CLASSIFICATION",
    "TASKS",
    "Classification",
    "Custom",
    "Detection",
    "Meter",
    "Metric",
    "Regression",
    "Restoration",
    "Retrieval",
    "Segmentation",
    "Task",
    "read_task",
    "task_of",
]
