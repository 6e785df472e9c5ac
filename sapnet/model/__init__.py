"""The network: maths only, no files and no images."""

from sapnet.model.deploy import DeployNet
from sapnet.model.sapnet import SAPNet

__all__ = ["DeployNet", "SAPNet"]
