"""What a node's process is started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from sapnet_ros.starting import PROFILE_VARIABLES, find_profile, profile_environment


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, "fastdds.xml"),
        ({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}, "rmw_cyclonedds_cpp"),
        ({"FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml"}, "/mine.xml"),
        ({"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}, "LARGE_DATA"),
    ],
)
def test_auto_leaves_the_users_choice(variables: dict[str, str], line: str) -> None:
    given, said = profile_environment("auto", variables)
    assert line in said
    assert given == (dict.fromkeys(PROFILE_VARIABLES, str(find_profile())) if line == "fastdds.xml" else {})


def test_off_and_a_path_win_over_the_users_variables(tmp_path: Path) -> None:
    variables = {"FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml"}
    assert profile_environment("off", variables)[0] == {}
    profile = tmp_path / "other.xml"
    profile.touch()
    given, _ = profile_environment(str(profile), variables)
    assert given == dict.fromkeys(PROFILE_VARIABLES, str(profile))
