"""Install requirement files into the environment of this interpreter: ``python requirements/install.py FILE...``.

With uv, which takes a third of pip's time, from where pip is configured to install from, by its files or variables;
with pip itself where it has settings that uv is not told here, where uv cannot be had, and where uv fails.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

UV = "uv==0.13.9"
PIP_INSTALL = [sys.executable, "-m", "pip", "install", "--no-compile"]
# The sections of pip's settings that hold for an install; a later one wins.
SECTIONS = ("global", "install", ":env:")
# What uv calls pip's settings, each of one value or several with spaces between.
OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "constraint": "--constraint",
    "trusted-host": "--allow-insecure-host",
}
VARIABLES = {
    "cert": "SSL_CERT_FILE",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "no-cache-dir": "UV_NO_CACHE",
}
# They change nothing in what is installed.
HARMLESS = {"cache-dir", "config-file", "disable-pip-version-check", "no-input", "progress-bar", "root-user-action"}


def pip_settings() -> dict[str, str]:
    """pip's settings for an install by their names."""
    command = [sys.executable, "-m", "pip", "-vvv", "config", "list"]  # it lists nothing where pip is set to be quiet
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    settings = {}
    for section in SECTIONS:
        for line in lines:
            name, _, value = line.partition("=")
            if name.startswith(f"{section}."):
                settings[name.removeprefix(f"{section}.")] = str(ast.literal_eval(value))
    return settings


def uv_command(settings: Mapping[str, str]) -> list[str]:
    """``uv pip install`` from the same places as pip. The best version of all indexes is taken, as by pip."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable]
    command += ["--index-strategy", "unsafe-best-match"]
    return command + [
        word for name, option in OPTIONS.items() for value in settings.get(name, "").split() for word in (option, value)
    ]


def uv_variables(settings: Mapping[str, str]) -> dict[str, str]:
    """What uv is told through its environment."""
    return {variable: settings[name] for name, variable in VARIABLES.items() if name in settings}


def main(files: Sequence[str]) -> int:
    """Returns the exit status of what was tried last."""
    requirements = [word for file in files for word in ("-r", file)]
    settings = pip_settings()
    if settings.keys() <= OPTIONS.keys() | VARIABLES.keys() | HARMLESS and not subprocess.call([*PIP_INSTALL, UV]):
        environment = {**os.environ, **uv_variables(settings)}
        if not subprocess.call([*uv_command(settings), *requirements], env=environment):
            return 0
    return subprocess.call([*PIP_INSTALL, *requirements])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
