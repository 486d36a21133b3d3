"""Networks that are given as ONNX files: read within bounds, made ordinary modules, and compared with ONNX Runtime.

The operators that onnx2torch converts well are converted by it. Those that take sizes as tensors become calls of torch
with plain numbers, so that they can be read, cut and written again as any other network can.
"""

from __future__ import annotations

from secateur.models.onnx_files.named import files_of, is_onnx, pictures_of
from secateur.models.onnx_files.network import OnnxNetwork, from_onnx, from_skeleton

__all__ = ["OnnxNetwork", "files_of", "from_onnx", "from_skeleton", "is_onnx", "pictures_of"]
