"""Models, and tasks that join a model with its data and its quality measure."""

from dgc_topo.training.models.architectures import running_statistics
from dgc_topo.training.models.build import Option, build_model, model_names, model_options
from dgc_topo.training.models.emulated import EmulatedTask
from dgc_topo.training.models.own import OwnData, OwnFunction, OwnModel
from dgc_topo.training.models.sample_tasks import ClassTask, LossTask, SampleTask
from dgc_topo.training.models.task import Batch, LearningTask, Metric, Score, Task
from dgc_topo.training.models.tasks import (
    ImageTask,
    TextTask,
    check_task_options,
    make_task,
    take_image_size,
    task_options,
)

__all__ = [
    "Batch",
    "ClassTask",
    "EmulatedTask",
    "ImageTask",
    "LearningTask",
    "LossTask",
    "Metric",
    "Option",
    "OwnData",
    "OwnFunction",
    "OwnModel",
    "SampleTask",
    "Score",
    "Task",
    "TextTask",
    "build_model",
    "check_task_options",
    "make_task",
    "model_names",
    "model_options",
    "running_statistics",
    "take_image_size",
    "task_options",
]
