"""Images kept decoded, as far as memory goes."""

from __future__ import annotations

from pathlib import Path

from sapnet.images.frame import Frame
from sapnet.media.sources import read_image


class ImageCache:
    """Reads images, and keeps those that come first. limit: bytes of them in each process that prepares samples."""

    def __init__(self, limit: int = 512 * 2**20) -> None:
        self.limit = limit
        self._images: dict[Path, Frame] = {}
        self._bytes = 0

    def read(self, path: Path) -> Frame:
        """uint8 (H, W, 3) BGR, not to be written to. Raises ImageFormatError."""
        if path in self._images:
            return self._images[path]
        image = read_image(path)
        if self._bytes + image.nbytes <= self.limit:
            self._images[path] = image
            self._bytes += image.nbytes
        return image
