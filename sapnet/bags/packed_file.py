"""Files of a recording that are compressed as a whole: unpacked when they are read, one at a time."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from sapnet.bags.mcap import McapFile
from sapnet.bags.recording import Message
from sapnet.bags.sqlite3 import Sqlite3File
from sapnet.bags.types import zstd
from sapnet.errors import first_line

SUFFIXES = (".zstd", ".zst")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PackedFile:
    """An mcap file or database under zstd. topics, span_ns, compression: as of what is in it.

    folder: where it is unpacked, in place of whichever file of the recording is there. say: takes what is wrong with
    the file, a sentence each. Raises BagError where nothing can be read, OSError.
    """

    def __init__(self, path: Path, folder: Path, say: Callable[[str], None]) -> None:
        self._packed = path
        self._plain = folder / path.stem
        self._say = say
        self._unpack()
        self._file: McapFile | Sqlite3File
        if self._plain.suffix == ".mcap":
            self._file = McapFile(self._plain, say)
        else:
            self._file = Sqlite3File(self._plain, folder, say)
        self.topics, self.span_ns, self.compression = self._file.topics, self._file.span_ns, self._file.compression

    def messages(
        self, keys: Collection[tuple[str, str]], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[Message]:
        """As of what is in it."""
        if self.span_ns is None or not _meet(self.span_ns, start_ns, stop_ns):
            return
        if not self._plain.is_file():
            self._unpack()
        # Whoever still reads the file that was here before has it open.
        yield from self._file.messages(keys, start_ns, stop_ns)

    def _unpack(self) -> None:
        shutil.rmtree(self._plain.parent, ignore_errors=True)
        self._plain.parent.mkdir()
        with self._packed.open("rb") as content, self._plain.open("wb") as unpacked:
            try:
                with zstd.open(content, "rb") as packed:
                    shutil.copyfileobj(packed, unpacked)
            except (zstd.ZstdError, EOFError) as err:
                self._say(f"{self._packed.name} is damaged ({first_line(err)}): unpacked as far as it goes")
            except OSError as err:
                if err.errno in _FULL:
                    raise OSError(err.errno, f"{err.strerror}, for {self._plain}; set TMPDIR to a larger disk") from err
                raise


def _meet(span_ns: tuple[int, int], start_ns: int | None, stop_ns: int | None) -> bool:
    first_ns, last_ns = span_ns
    return (start_ns is None or last_ns >= start_ns) and (stop_ns is None or first_ns < stop_ns)
