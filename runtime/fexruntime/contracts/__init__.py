"""Contract tables: the only place where a size, a label list, an axis sign, a mean or a tolerance is written.

Adding a network is a row in `networks.py`, a torch module in `fexport.networks`, and its goldens.
"""

from fexruntime.contracts.networks import (
    LANDMARK_CROP,
    MULTITASK_CHIP,
    MULTITASK_PREPROCESSING,
    NETWORKS,
    POSE_MLP,
)
from fexruntime.contracts.pipelines import CONTRACTS, PIPELINES, network_row, pipeline_row
from fexruntime.contracts.schema import (
    AxisMap,
    Crop,
    Network,
    Pipeline,
    Preprocessing,
    Tensor,
    Tolerance,
    WeightsFile,
)

__all__ = [
    "CONTRACTS",
    "LANDMARK_CROP",
    "MULTITASK_CHIP",
    "MULTITASK_PREPROCESSING",
    "NETWORKS",
    "PIPELINES",
    "POSE_MLP",
    "AxisMap",
    "Crop",
    "Network",
    "Pipeline",
    "Preprocessing",
    "Tensor",
    "Tolerance",
    "WeightsFile",
    "network_row",
    "pipeline_row",
]
