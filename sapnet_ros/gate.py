"""The rain gate: in dry weather the network looks at a frame now and then, and the others pass through."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GateSettings:
    """``rain_gate.*`` of the node's parameters.

    probe_period_s: between two frames that are looked at while it is dry.
    on_threshold: rain score from which it rains. off_threshold: rain score below which it is dry, once it has
    been so for ``hold_s``.
    """

    enabled: bool
    probe_period_s: float
    on_threshold: float
    off_threshold: float
    hold_s: float


class RainGate:
    """Whether it rains in front of one camera. Until the network has found otherwise, it does.

    Times are steady seconds.
    """

    def __init__(self) -> None:
        self._dry = False
        self._dry_since_s: float | None = None  # since when every score was below off_threshold
        self._probed_s = 0.0

    def state(self, settings: GateSettings) -> str:
        """``off``, ``dry`` or ``rain``."""
        if not settings.enabled:
            return "off"
        return "dry" if self._dry else "rain"

    def passes(self, now_s: float, settings: GateSettings) -> bool:
        """Whether a frame is to pass through without a look at it."""
        return settings.enabled and self._dry and now_s - self._probed_s < settings.probe_period_s

    def note_look(self, now_s: float) -> None:
        """A frame is about to be derained."""
        self._probed_s = now_s

    def note_score(self, score: float, now_s: float, settings: GateSettings) -> bool:
        """What the network found in a frame; returns whether that frame, too, is to pass through as dry."""
        if not settings.enabled:
            self._dry, self._dry_since_s = False, None
        elif self._dry:
            if score >= settings.on_threshold:
                self._dry, self._dry_since_s = False, None
        elif score >= settings.off_threshold:
            self._dry_since_s = None
        else:
            self._dry_since_s = now_s if self._dry_since_s is None else self._dry_since_s
            self._dry = now_s - self._dry_since_s >= settings.hold_s
        return self._dry
