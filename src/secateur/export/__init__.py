"""Files that other programs can run, each reloaded and compared with the network before it is kept."""

from secateur.export.comparison import Exported, Int8
from secateur.export.int8 import export_int8
from secateur.export.programs import export_onnx, export_pt2, missing
from secateur.export.source import WEIGHTS, export_source

__all__ = [
    "BESIDE",
    "FILES",
    "Exported",
    "Int8",
    "export_int8",
    "export_onnx",
    "export_pt2",
    "export_source",
    "missing",
]

FILES = {
    "pt2": "model.pt2",
    "onnx": "model.onnx",
    "source": "model.py",
    "onnx-int8": "model.int8.onnx",
    "openvino-int8": "model.int8.xml",
}
BESIDE = {"source": WEIGHTS, "openvino-int8": ".bin"}
"""Suffix of the file with the weights, where they stand apart."""
