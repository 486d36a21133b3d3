"""Files that other programs can run, each reloaded and compared with the network before it is kept."""

from secateur.export.comparison import Exported
from secateur.export.programs import export_onnx, export_pt2
from secateur.export.source import export_source

__all__ = ["FILES", "Exported", "export_onnx", "export_pt2", "export_source"]

FILES = {"pt2": "model.pt2", "onnx": "model.onnx", "source": "model.py"}
