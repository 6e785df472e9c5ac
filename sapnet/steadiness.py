"""A filter over time against flicker: rain changes from one frame to the next, most of the view does not."""

from __future__ import annotations

import cv2

from sapnet.images.frame import Frame

# Largest difference of any channel between a frame and the one before that is taken for flicker, not for motion.
NEAR = 24


class Steadier:
    """Blends each frame with the result for the one before, pixel by pixel where the two differ little."""

    def __init__(self) -> None:
        self._before: Frame | None = None

    def __call__(self, frame: Frame, share: float) -> Frame:
        """The steadied frame, uint8 (H, W, 3), new or ``frame`` itself.

        share: of the result before, 0 to 1. What differs in any channel by more than NEAR stays as it is, so that
        what moves leaves no trail but of faint contrast. A frame of another size restarts it.
        """
        before, self._before = self._before, frame
        if share == 0 or before is None or before.shape != frame.shape:
            return frame
        near = cv2.inRange(cv2.absdiff(frame, before), (0, 0, 0), (NEAR, NEAR, NEAR))
        self._before = steady = frame.copy()
        cv2.copyTo(cv2.addWeighted(frame, 1 - share, before, share, 0.0), near, steady)
        return steady

    def forget(self) -> None:
        """Restart: frames are missing between the last one and the next."""
        self._before = None
