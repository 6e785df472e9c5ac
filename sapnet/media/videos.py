"""Videos through PyAV: frames with their timestamps; the other streams are copied."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from sapnet.errors import ImageFormatError
from sapnet.files import replacing
from sapnet.images.frame import Frame
from sapnet.media.formats import DEFAULT_CRF, MAX_PIXELS, VIDEO_FORMATS

DEFAULT_RATE = Fraction(25)

# Others, such as playlists, would open the files and addresses that they name.
_DEMUXERS = "mov,matroska,avi,asf,mpeg,mpegts,mpegvideo"
_READ_BUFFER = 1 << 20
# By default libswscale darkens frames by two levels. SWS_BILINEAR | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT.
_ACCURATE = 0x2 | 0x40000 | 0x2000
# Encoders whose frames last equally long.
_FIXED_RATE, _FASTEST = ("mjpeg", "mpeg2video"), Fraction(60)
# A file is cut off if its streams end before this share of the header's duration, and by at least this time.
_WHOLE_SHARE, _WHOLE_S = 0.95, 0.5
# Of what an edit list hides at the start, only what the sound's decoder needs beforehand is copied.
_PRIMING_S = 0.1
# Written by the muxer itself.
_OWN_TAGS = ("major_brand", "minor_version", "compatible_brands", "encoder")
_UNSPECIFIED = 2  # FFmpeg's colour space

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """A frame of a video. pixels: uint8 (H, W, 3) BGR, upright.

    pts, duration: in units of the reader's time base; None and 0 where the container does not say.
    """

    pixels: Frame
    pts: int | None
    duration: int


class VideoReader:
    """An open video file.

    rate: mean frames per second. count: frames to expect, None if the container does not say.
    damage: after all frames were read, what is missing or damaged; empty for a sound file.
    """

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream) -> None:
        self.path = path
        self.container = container
        self.stream = stream
        self.rate = stream.average_rate or stream.guessed_rate or DEFAULT_RATE
        self.time_base = stream.time_base or 1 / self.rate
        self.damage = ""
        self.color: dict[str, int] = {}
        self._converter = VideoReformatter()
        self._turned = False
        self._shape: tuple[int, ...] = ()
        stream.codec_context.thread_type = "AUTO"

    @property
    def count(self) -> int | None:
        """Frames to expect; None if unknown."""
        seconds = self.container.duration / av.time_base if self.container.duration else 0
        return self.stream.frames or round(seconds * self.rate) or None

    @property
    def aspect_ratio(self) -> Fraction | None:
        """Width over height of a pixel of the upright frame; None if unknown. Known once a frame was read."""
        ratio = self.stream.sample_aspect_ratio
        return 1 / ratio if ratio and self._turned else ratio or None

    def frames(self, copy: Callable[[av.Packet[Any]], None] | None = None) -> Iterator[VideoFrame]:
        """All frames in order of display. copy: receives the packets of the audio and subtitle streams as they come.

        Raises ImageFormatError where no frame can be decoded or where the size changes.
        """
        copied = ("audio", "subtitle") if copy else ()
        streams = [self.stream, *(stream for stream in self.container.streams if stream.type in copied)]
        damaged, end = 0, 0.0
        for packet in self._packets(streams):
            if packet is not None and packet.dts is not None and packet.time_base:
                shown = packet.dts if packet.pts is None else packet.pts
                end = max(end, float((shown + (packet.duration or 0)) * packet.time_base))
            if packet is not None and packet.stream is not self.stream:
                if copy and packet.dts is not None:
                    copy(packet)
                continue
            try:
                decoded = self.stream.decode(packet)
            except av.FFmpegError:
                decoded, damaged = [], damaged + 1
            for frame in decoded:
                yield self._upright(frame)
        if not self._shape:
            raise ImageFormatError(f"{self.path} opens as a video but holds no frame that can be read", "decode")
        self.damage = self.damage or self._missing(end, damaged)

    def _packets(self, streams: list[Any]) -> Iterator[av.Packet[Any] | None]:
        """All packets, then those without content that flush the decoders: None where reading stops at damage."""
        try:
            yield from self.container.demux(streams)
        except (av.FFmpegError, OSError) as err:
            self.damage = f"reading stops at a damaged place ({err.strerror})"
            yield None

    def _missing(self, end: float, damaged: int) -> str:
        start = (self.container.start_time or 0) / av.time_base
        expected = (self.container.duration or 0) / av.time_base
        if self.container.format.name == "avi":  # whose duration is that of the frames that are there
            expected = float(self.stream.frames / self.rate)
        read = end - start
        if read < expected * _WHOLE_SHARE and read < expected - _WHOLE_S:
            return f"it ends after {read:.1f} of {expected:.1f} s: it is cut off"
        return f"{damaged} packets cannot be decoded: it is damaged" if damaged else ""

    def _upright(self, frame: av.VideoFrame) -> VideoFrame:
        bgr = self._converter.reformat(frame, format="bgr24", interpolation=_ACCURATE)
        pixels = np.asarray(bgr.to_ndarray(), np.uint8)
        turns = round(frame.rotation / 90) % 4
        if turns:
            pixels = np.ascontiguousarray(np.rot90(pixels, turns))
        if self._shape not in ((), pixels.shape):
            raise ImageFormatError(
                f"{self.path}: the frames change from {_size(self._shape)} to {_size(pixels.shape)}; split it", "size"
            )
        if not self._shape:
            names = ("colorspace", "color_range", "color_primaries", "color_trc")
            self.color = {name: int(getattr(frame, name)) for name in names}
            self._shape, self._turned = pixels.shape, bool(turns % 2)
            if any(component.bits > 8 for component in frame.format.components):
                log.warning("%s: its %s frames are cut to 8 bits a channel", self.path, frame.format.name)
        return VideoFrame(pixels, frame.pts, frame.duration)


@contextmanager
def read_video(path: Path) -> Iterator[VideoReader]:
    """Open a video. Raises ImageFormatError, OSError."""
    options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "", "max_pixels": str(MAX_PIXELS)}
    # As an open file: FFmpeg takes a colon in a name for a protocol, and names must be UTF-8 there.
    with path.open("rb") as file:
        try:
            container = av.open(file, "r", options=options, metadata_errors="replace", buffer_size=_READ_BUFFER)
        except (av.FFmpegError, OSError, ValueError) as err:
            raise ImageFormatError(
                f"{path} is not a video that can be read; it may be damaged or cut off", "decode"
            ) from err
        with container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream) or stream.codec_context is None:
                raise ImageFormatError(f"{path} holds no video stream that can be decoded", "encoding")
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            yield VideoReader(path, container, stream)


@contextmanager
def write_video(
    path: Path,
    rate: Fraction | float = DEFAULT_RATE,
    like: VideoReader | None = None,
    crf: int = DEFAULT_CRF,
    lossless: bool = False,
) -> Iterator[VideoWriter]:
    """A video to write to, which is at ``path`` once the ``with`` block has ended without an error.

    rate: frames per second, for frames without timestamps. like: the video that the frames come from; sets timing,
    pixel aspect ratio and colour, and gives audio, subtitles and metadata. crf: H.264's constant rate factor, 0 to 51;
    other encoders get a comparable quality. lossless: FFV1 of gray frames without sound, for masks, in .mkv.
    Raises ImageFormatError where the format cannot hold the frames, SapnetError where the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in VIDEO_FORMATS:
        raise ImageFormatError(f"{path}: {suffix} videos cannot be written; name the output .mp4", "encoding")
    with replacing(path) as temporary, _Output(io.FileIO(temporary, "wb")) as file:
        try:
            with av.open(file, "w", format=VIDEO_FORMATS[suffix][0]) as container:
                codec = "ffv1" if lossless else VIDEO_FORMATS[suffix][1]
                writer = VideoWriter(path, container, codec, Fraction(rate).limit_denominator(100_000), crf, like)
                if like and not lossless:
                    writer.add_others(like)
                yield writer
                writer.close()
        except (av.FFmpegError, ValueError) as err:
            if file.error:
                raise file.error from err
            raise ImageFormatError(
                f"{path}: FFmpeg cannot write these frames as {suffix} ({err}); name the output .mp4 or .mkv",
                "encoding",
            ) from err


class _Output(io.BufferedWriter):
    """A file that keeps the cause of a failed write, which FFmpeg loses."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as err:
            self.error = err
            raise


class VideoWriter:
    """Frames of one size on their way to a file."""

    def __init__(
        self,
        path: Path,
        container: OutputContainer,
        codec: str,
        rate: Fraction,
        crf: int,
        like: VideoReader | None,
    ) -> None:
        self._path = path
        self._container = container
        self._codec = codec
        self._rate = like.rate if like else rate
        self._crf = crf
        self._like = like
        self._time_base = like.time_base if like else 1 / rate
        if like and codec in _FIXED_RATE:
            # The rate of the frames that follow each other fastest, where those of the input last unequally long.
            self._rate = max(like.rate, min(like.stream.guessed_rate or like.rate, _FASTEST))
            self._time_base = 1 / self._rate
        self._stream: VideoStream | None = None
        self._others: dict[int, Any] = {}
        self._waiting: list[av.Packet[Any]] = []
        self._least, self._end = -(2**62), 0  # of the next frame's pts, and where the last frame ends
        self._converter = VideoReformatter()

    def add_others(self, like: VideoReader) -> None:
        """Add copies of the audio, subtitle and attachment streams, and set metadata and chapters."""
        self._container.metadata.update({k: v for k, v in like.container.metadata.items() if k not in _OWN_TAGS})
        self._container.set_chapters(like.container.chapters())
        left_out = []
        for stream in like.container.streams:
            if stream is like.stream:
                continue
            try:
                if stream.type not in ("audio", "subtitle", "attachment"):
                    raise ValueError("not copied")
                copy = self._container.add_stream_from_template(stream)
                copy.metadata.update(stream.metadata)
                copy.disposition = stream.disposition
            except ValueError:
                left_out.append(f"{stream.type} {getattr(stream.codec_context, 'name', '')}".strip())
            else:
                self._others[stream.index] = copy
        if left_out:
            log.warning("%s leaves out streams of the input: %s", self._path, ", ".join(left_out))

    def write(self, pixels: Frame, pts: int | None = None, duration: int = 0) -> None:
        """Append uint8 (H, W, 3) BGR or (H, W) gray. pts, duration: in the time base of ``like``; without, the next."""
        if self._stream is None:
            self._stream = self._start(pixels)
        height, width = self._stream.height, self._stream.width
        pixels = np.ascontiguousarray(pixels[:height, :width])
        frame = av.VideoFrame.from_ndarray(pixels, "bgr24" if pixels.ndim == 3 else "gray")
        color = self._like.color if self._like else {}
        if pixels.ndim == 3:
            frame = self._converter.reformat(
                frame,
                format=self._stream.pix_fmt,
                dst_colorspace=color.get("colorspace", _UNSPECIFIED),
                dst_color_range=self._stream.color_range or None,
                interpolation=_ACCURATE,
            )
        if pts is not None and self._like and self._time_base != self._like.time_base:
            pts, duration = round(pts * self._like.time_base / self._time_base), 1
        # Containers with rounded timestamps can give two frames the same one.
        frame.pts = self._end if pts is None else max(pts, self._least)
        frame.duration = duration or max(1, round(1 / (self._rate * self._time_base)))
        frame.time_base = self._time_base
        self._least, self._end = frame.pts + 1, frame.pts + frame.duration
        self._container.mux(self._stream.encode(frame))

    def copy(self, packet: av.Packet[Any]) -> None:
        """Append a packet of one of the streams that are copied, if it is not hidden by an edit list."""
        # A format of fixed rate has no time before the first frame.
        shown_s = -_PRIMING_S if self._codec not in _FIXED_RATE else 0
        if packet.is_discard and packet.pts is not None and packet.pts * packet.time_base < shown_s:
            return
        if self._stream is None:  # nothing can be written before the video's size is known
            self._waiting.append(packet)
        elif packet.stream_index in self._others:
            packet.stream = self._others[packet.stream_index]
            self._container.mux_one(packet)

    def close(self) -> None:
        """Write what the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))

    def _start(self, frame: Frame) -> VideoStream:
        height, width = frame.shape[:2]
        options, pixel_format = _encoder(self._codec, self._crf)
        if pixel_format.endswith("420p") and (height % 2 or width % 2):
            log.warning("%s: an even size is needed; the last row or column of %dx%d is cut", self._path, height, width)
            height, width = height - height % 2, width - width % 2
        stream = self._container.add_stream(self._codec, rate=self._rate, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = height, width, pixel_format
        stream.codec_context.time_base = self._time_base
        stream.time_base = self._time_base
        if self._like:
            for name, value in self._like.color.items():
                setattr(stream.codec_context, name, value)
            if self._like.aspect_ratio:
                stream.sample_aspect_ratio = self._like.aspect_ratio
            stream.metadata.update({k: v for k, v in self._like.stream.metadata.items() if k not in _OWN_TAGS})
        if pixel_format in ("yuvj420p", "gray"):
            stream.codec_context.color_range = 2
        self._stream = stream
        waiting, self._waiting = self._waiting, []
        for packet in waiting:
            self.copy(packet)
        return stream


def _encoder(codec: str, crf: int) -> tuple[dict[str, str], str]:
    """The options and the pixel format of an encoder at a quality like H.264's at ``crf``."""
    # H.264's quantizer doubles every six steps; the quantizers of older codecs are linear, from 2 to 31.
    quantizer = min(31, max(2, round(2 ** ((crf - 12) / 6))))
    fixed = {"flags": "+qscale", "global_quality": str(118 * quantizer)}
    return {
        "libx264": ({"crf": str(crf), "preset": "veryfast"}, "yuv420p"),
        "libvpx-vp9": ({"crf": str(min(63, crf + 10)), "b:v": "0", "cpu-used": "5", "row-mt": "1"}, "yuv420p"),
        "mjpeg": (fixed, "yuvj420p"),
        "mpeg2video": (fixed, "yuv420p"),
        "wmv2": (fixed, "yuv420p"),
        "ffv1": ({}, "gray"),
    }[codec]


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"
