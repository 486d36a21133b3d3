"""Labelled image data sets: three splits, batches in a seeded order, augmentation and normalisation."""

from secateur.data.arrays import from_arrays
from secateur.data.dataset import Batches, Data, Source
from secateur.data.loaders import from_loaders
from secateur.data.named import DATASETS, load_data
from secateur.data.order import AUGMENTS, Order, Split

__all__ = [
    "AUGMENTS",
    "DATASETS",
    "Batches",
    "Data",
    "Order",
    "Source",
    "Split",
    "from_arrays",
    "from_loaders",
    "load_data",
]
