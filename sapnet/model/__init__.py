"""The network: maths only, no files and no images."""

from sapnet.model.sapnet import DeployNet, SAPNet

__all__ = ["DeployNet", "SAPNet"]
