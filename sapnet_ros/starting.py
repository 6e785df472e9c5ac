"""What a derain_node process is started with: parameter files and the Fast DDS profile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

# Keys of parameter files. The node takes the sections that match its name in the order of their first appearance. What
# a dictionary given to launch's Node action becomes, '/**' or the full name, may have appeared before another section
# of the user's file. The second of these matches every node as well and stands in no such file: it overrides them all,
# while a file with the first, given first, is overridden.
BELOW, ABOVE = "/**", "/**/*"
# The first is read by Fast DDS 3 (Kilted), the second by Fast DDS 2 (Jazzy and before).
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
# Also decides on transports, which the profile would override.
TRANSPORTS_VARIABLE = "FASTDDS_BUILTIN_TRANSPORTS"


def parameter_file(key: str, values: Mapping[str, Any], folder: Path | None = None) -> str:
    """A new file of parameters, keyed ``BELOW`` or ``ABOVE``, in a folder, by default that of temporary files."""
    return json_file({key: {"ros__parameters": dict(values)}}, folder)


def json_file(values: Mapping[str, Any], folder: Path | None = None) -> str:
    """A new file of YAML. It is JSON, in which every text is quoted: the node takes a bare 1e5 or nan for a number."""
    with NamedTemporaryFile("w", prefix="derain_", suffix=".yaml", dir=folder, delete=False) as file:
        json.dump(values, file)
    return file.name


def find_profile() -> Path | None:
    """The profile that ships with the package: in a checkout, or where colcon or pip has installed it."""
    parents = Path(__file__).resolve().parents
    folders = (parents[1] / "config", *(parent / "share" / "sapnet_ros" / "config" for parent in parents))
    return next((profile for folder in folders if (profile := folder / "fastdds.xml").is_file()), None)


def profile_environment(choice: str, environment: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Environment variables for a process, and a line on the Fast DDS profile in use. Raises ValueError.

    choice: ``auto``, or empty: ours, unless the environment names one or another RMW; ``off``; or the path of one.
    """
    if choice == "off":
        return {}, "Fast DDS profile: left alone, as asked"
    if choice not in ("", "auto"):
        profile = Path(choice).expanduser().absolute()
        if not profile.is_file():
            raise ValueError(f"fastdds_profile:={choice} must be auto, off or the path of a file")
        return dict.fromkeys(PROFILE_VARIABLES, str(profile)), f"Fast DDS profile: {profile}"
    rmw = environment.get("RMW_IMPLEMENTATION", "")
    if rmw and not rmw.startswith("rmw_fastrtps"):
        return {}, f"Fast DDS profile: none, RMW_IMPLEMENTATION is {rmw}"
    for variable in (*PROFILE_VARIABLES, TRANSPORTS_VARIABLE):
        if environment.get(variable):
            return {}, f"Fast DDS profile: yours, {variable} is {environment[variable]}"
    ours = find_profile()
    if ours is None:
        return {}, "Fast DDS profile: none, config/fastdds.xml is not installed"
    return dict.fromkeys(PROFILE_VARIABLES, str(ours)), f"Fast DDS profile: {ours}; fastdds_profile:=off goes without"
