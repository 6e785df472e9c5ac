"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import re
from datetime import timedelta


def parse_duration(text: str) -> float:
    """``DD:HH:MM:SS`` or ``HH:MM:SS`` in seconds, above 0."""
    match = re.fullmatch(r"(?:(\d{1,3}):)?(\d{1,2}):(\d\d):(\d\d)", text.strip())
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
    duration = timedelta(days, seconds, minutes=minutes, hours=hours).total_seconds()
    if not duration:
        raise argparse.ArgumentTypeError(f"expected a time such as 01:30:00 or 00:01:30:00, got {text!r}")
    return duration


def parse_seed(text: str) -> int:
    """A whole number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, got {text!r}")
    return int(text)
