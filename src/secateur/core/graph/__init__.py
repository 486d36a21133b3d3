"""What lives and dies together: the result of reading a network."""

from secateur.core.graph.explanation import Explanation, LayerRow
from secateur.core.graph.graph import Graph
from secateur.core.graph.names import layer_of, maker_of, unparametrized, within
from secateur.core.graph.outputs import Output
from secateur.core.graph.structure import INSIDE, Cost, Groups, Pin, Statistic
from secateur.core.graph.units import Group, Member, Role, positions, staying, tensor_of, unit_rows

__all__ = [
    "INSIDE",
    "Cost",
    "Explanation",
    "Graph",
    "Group",
    "Groups",
    "LayerRow",
    "Member",
    "Output",
    "Pin",
    "Role",
    "Statistic",
    "layer_of",
    "maker_of",
    "positions",
    "staying",
    "tensor_of",
    "unit_rows",
    "unparametrized",
    "within",
]
