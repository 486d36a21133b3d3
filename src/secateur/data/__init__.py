"""Data sets for every task (three splits, seeded order, augmentation, normalisation), and images without labels."""

from secateur.data.arrays import from_arrays
from secateur.data.calibration import Calibration, load_calibration
from secateur.data.dataset import Batches, Data, Source
from secateur.data.loaders import from_loaders, with_task
from secateur.data.named import DATASETS, load_data
from secateur.data.order import AUGMENTS, Order, Split

__all__ = [
    "AUGMENTS",
    "DATASETS",
    "Batches",
    "Calibration",
    "Data",
    "Order",
    "Source",
    "Split",
    "from_arrays",
    "from_loaders",
    "load_calibration",
    "load_data",
    "with_task",
]
