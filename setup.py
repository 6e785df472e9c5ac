"""Installs with pip, and with colcon as an ament_python package."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# colcon's --symlink-install runs a link to this file from its build folder.
ROOT = Path(__file__).resolve().parent
NAME = "sapnet_ros"


def version() -> str:
    """The version, read without importing the package."""
    return re.search(r'^__version__ = "(.+)"$', (ROOT / "sapnet/__init__.py").read_text(), re.MULTILINE)[1]


def pins(requirements: str) -> list[str]:
    """The entries of a file in requirements/, which names each version once."""
    lines = (ROOT / "requirements" / requirements).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def files(pattern: str) -> list[str]:
    """Paths relative to this file, as data_files wants them."""
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


setup(
    name=NAME,
    version=version(),
    description="Takes rain out of camera frames with SAPNet, on ROS 2 topics and on files",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["sapnet", "sapnet.*", "sapnet_ros", "sapnet_ros.*"]),
    package_data={"sapnet": ["weights/*", "bags/page/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", files("launch/*.launch.py")),
        (f"share/{NAME}/config", files("config/*")),
    ],
    # For pip alone: colcon installs no requirements, so that a vehicle's own python3-opencv and torch stay in use.
    # The upper bounds are what the tests have not run on; requirements/ pins what they run on.
    install_requires=[
        "av>=17,<18",
        'backports.zstd>=1; python_version < "3.14"',
        "filelock>=4",
        "jinja2>=3.1",
        "lz4>=4",
        "mcap>=1.3",
        "numpy>=1.26,<3",
        "opencv-python-headless>=4.6,<5",
        "pillow>=11,<14",
        "rich>=13",
        "rosbags>=0.11.9,<0.12",
        "ruamel.yaml>=0.18",
        "safetensors>=0.4",
        "torch>=2.8,<2.14",
    ],
    extras_require={
        "ros": pins("ros-jazzy.txt"),
        "openvino": ["openvino>=2025.0"],
        "demo": ["scikit-image>=0.22"],
        "fleet": ["ray>=2.40,<3"],
        # colcon test runs pytest where this extra names it.
        "test": pins("test.txt"),
    },
    entry_points={
        "console_scripts": [
            "sapnet = sapnet.cli:main",
            "derain_node = sapnet_ros.derain_node:main",
            "bag_publisher = sapnet_ros.replay.bag_publisher:main",
            "bag_recorder = sapnet_ros.replay.recorder:main",
        ],
        "sapnet.commands": [
            "demo = sapnet_ros.demo.command",
            "replay = sapnet_ros.replay.command",
            "top = sapnet_ros.top",
        ],
    },
    zip_safe=False,
)
