"""Images kept decoded, as far as memory goes."""

from __future__ import annotations

from pathlib import Path

from sapnet.images.frame import Frame
from sapnet.media.sources import read_image

# In each process that prepares samples.
_LIMIT_BYTES = 512 * 2**20


class ImageCache:
    """Reads images, and keeps those that come first."""

    def __init__(self) -> None:
        self._images: dict[Path, Frame] = {}
        self._bytes = 0

    def read(self, path: Path) -> Frame:
        """uint8 (H, W, 3) BGR, not to be written to. Raises ImageFormatError."""
        if path in self._images:
            return self._images[path]
        image = read_image(path)
        if self._bytes + image.nbytes <= _LIMIT_BYTES:
            self._images[path] = image
            self._bytes += image.nbytes
        return image
