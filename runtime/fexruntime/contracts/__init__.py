"""Contract tables: the only place where a size, a label list, an axis sign, a mean or a tolerance is written.

Adding a network is a row in `networks.py` with its gates, a choice of a stage in `pipelines.py`, a torch module with a
recipe in `fexport.networks`, and its goldens.
"""

from fexruntime.contracts.digest import contract_sha256
from fexruntime.contracts.gates import GATES, gates_of
from fexruntime.contracts.head_pose_pipelines import TOKENHPE_CROP
from fexruntime.contracts.networks import NETWORKS
from fexruntime.contracts.pipelines import (
    CONTRACTS,
    LANDMARK_CROP,
    MULTITASK_CHIP,
    PIPELINES,
    REFERENCES,
    WITH_BUGS,
    network_row,
    pipeline_row,
    reference_of,
)
from fexruntime.contracts.schema import (
    AxisMap,
    Choice,
    Crop,
    Gate,
    Group,
    Network,
    Pipeline,
    Preprocessing,
    Resize,
    Stage,
    Tensor,
    Value,
    WeightsFile,
)
from fexruntime.contracts.values import VALUES, is_inner

__all__ = [
    "CONTRACTS",
    "GATES",
    "LANDMARK_CROP",
    "MULTITASK_CHIP",
    "NETWORKS",
    "PIPELINES",
    "REFERENCES",
    "TOKENHPE_CROP",
    "VALUES",
    "WITH_BUGS",
    "AxisMap",
    "Choice",
    "Crop",
    "Gate",
    "Group",
    "Network",
    "Pipeline",
    "Preprocessing",
    "Resize",
    "Stage",
    "Tensor",
    "Value",
    "WeightsFile",
    "contract_sha256",
    "gates_of",
    "is_inner",
    "network_row",
    "pipeline_row",
    "reference_of",
]
