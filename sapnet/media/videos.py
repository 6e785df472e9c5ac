"""Videos through PyAV: frames with their timestamps; the other streams are copied."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

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
_COLOUR = ("colorspace", "color_range", "color_primaries", "color_trc")
_FULL_RANGE = 2
# Encoders whose frames last equally long.
_FIXED_RATE, _FASTEST = ("mjpeg", "mpeg2video"), Fraction(60)
# A file is cut off if its streams end before this share of the header's duration, and by at least this time.
_WHOLE_SHARE, _WHOLE_S = 0.95, 0.5
# Of what an edit list hides at the start, only what the sound's decoder needs beforehand is copied.
_PRIMING_S = 0.1
# Written by the muxer itself.
_OWN_TAGS = ("major_brand", "minor_version", "compatible_brands", "encoder")

log = logging.getLogger(__name__)


class VideoFrame(NamedTuple):
    """A frame of a video. pixels: uint8 (H, W, 3) BGR, upright.

    pts, duration: in units of the reader's time base; None and 0 where the container does not say.
    """

    pixels: Frame
    pts: int | None
    duration: int


class VideoReader:
    """An open video file.

    rate: mean frames per second. count: frames to expect, None if the container does not say.
    turned: whether frames are stored on their side; known once a frame was read.
    damage: after all frames were read, what is missing or damaged; empty for a sound file.
    """

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream) -> None:
        self.path = path
        self.container = container
        self.stream = stream
        self.rate = stream.average_rate or stream.guessed_rate or DEFAULT_RATE
        self.time_base = stream.time_base or 1 / self.rate
        self.count = stream.frames or round((container.duration or 0) / av.time_base * self.rate) or None
        self.turned = False
        self.damage = ""
        self._converter = VideoReformatter()
        self._shape: tuple[int, ...] = ()
        stream.codec_context.thread_type = "AUTO"

    def frames(self, copy: Callable[[av.Packet[Any]], None] = lambda packet: None) -> Iterator[VideoFrame]:
        """All frames in order of display. copy: receives the packets of the audio and subtitle streams as they come.

        Raises ImageFormatError where no frame can be decoded or where the size changes.
        """
        damaged, end = 0, 0.0
        for packet in self._packets():
            if packet.dts is not None and packet.time_base:
                shown = packet.dts if packet.pts is None else packet.pts
                end = max(end, float((shown + (packet.duration or 0)) * packet.time_base))
            if packet.stream is not self.stream:
                if packet.dts is not None:
                    copy(packet)
                continue
            try:
                decoded = self.stream.decode(packet)
            except av.FFmpegError:
                decoded, damaged = [], damaged + 1
            for frame in decoded:
                yield VideoFrame(self._upright(frame), frame.pts, frame.duration)
        if not self._shape:
            raise ImageFormatError(f"{self.path} opens as a video but holds no frame that can be read", "decode")
        self.damage = self.damage or self._missing(end, damaged)

    def _packets(self) -> Iterator[av.Packet[Any]]:
        """Packets of the video, of sound and of subtitles, then those without content that flush the decoders."""
        kinds = "audio", "subtitle"
        try:
            yield from self.container.demux([self.stream, *(s for s in self.container.streams if s.type in kinds)])
        except (av.FFmpegError, OSError) as err:
            self.damage = f"reading stops at a damaged place ({err.strerror})"
            flush: av.Packet[Any] = av.Packet()
            flush.stream = self.stream
            yield flush

    def _missing(self, end: float, damaged: int) -> str:
        read = end - (self.container.start_time or 0) / av.time_base
        expected = (self.container.duration or 0) / av.time_base
        if self.container.format.name == "avi":  # whose duration is that of the frames that are there
            expected = float(self.stream.frames / self.rate)
        if read < min(expected * _WHOLE_SHARE, expected - _WHOLE_S):
            return f"it ends after {read:.1f} of {expected:.1f} s: it is cut off"
        return f"{damaged} packets cannot be decoded: it is damaged" if damaged else ""

    def _upright(self, frame: av.VideoFrame) -> Frame:
        bgr = self._converter.reformat(frame, format="bgr24", interpolation=_ACCURATE)
        turns = round(frame.rotation / 90) % 4
        pixels = np.ascontiguousarray(np.rot90(np.asarray(bgr.to_ndarray(), np.uint8), turns))
        if not self._shape:
            self._shape, self.turned = pixels.shape, bool(turns % 2)
            if any(component.bits > 8 for component in frame.format.components):
                log.warning("%s: its %s frames are cut to 8 bits a channel", self.path, frame.format.name)
        if self._shape != pixels.shape:
            before, now = (f"{height}x{width}" for height, width, _ in (self._shape, pixels.shape))
            raise ImageFormatError(f"{self.path}: the frames change from {before} to {now}; split it", "size")
        return pixels


@contextmanager
def read_video(path: Path) -> Iterator[VideoReader]:
    """Open a video. Raises ImageFormatError, OSError."""
    options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "", "max_pixels": str(MAX_PIXELS)}
    # As an open file: with no protocol allowed, what it names cannot be opened.
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

    path: ends in one of ``VIDEO_FORMATS``. rate: frames per second, for frames without timestamps.
    like: the video that the frames come from; sets timing, pixel aspect ratio and colour, and gives audio, subtitles
    and metadata. crf: H.264's constant rate factor, 0 to 51; other encoders get a comparable quality.
    lossless: FFV1 of gray frames without sound, for masks, in .mkv.
    Raises ImageFormatError where the format cannot hold the frames, SapnetError where the file cannot be written.
    """
    suffix = path.suffix.lower()
    muxer, codec = VIDEO_FORMATS[suffix]
    with replacing(path) as temporary:
        temporary.touch()  # FFmpeg opens it with the first packet, many frames later
        try:
            # FFmpeg would take a colon in a name for the end of a protocol.
            with av.open(f"file:{temporary}", "w", format=muxer) as container:
                codec = "ffv1" if lossless else codec
                writer = VideoWriter(path, container, codec, Fraction(rate).limit_denominator(100_000), crf, like)
                yield writer
                if writer.stream:  # write what the encoder still holds
                    container.mux(writer.stream.encode(None))
        except OSError:
            raise
        except (av.FFmpegError, ValueError) as err:
            raise ImageFormatError(
                f"{path}: FFmpeg cannot write these frames as {suffix} ({err}); name the output .mp4 or .mkv",
                "encoding",
            ) from err


@dataclass(eq=False)
class VideoWriter:
    """Frames of one size on their way to a file; the arguments are those of ``write_video``."""

    path: Path
    container: OutputContainer
    codec: str
    rate: Fraction
    crf: int
    like: VideoReader | None
    stream: VideoStream | None = None

    def __post_init__(self) -> None:
        self._time_base = 1 / self.rate
        if like := self.like:
            self.rate, self._time_base = like.rate, like.time_base
            if self.codec in _FIXED_RATE:
                # That of the frames that follow each other fastest, where those of the input last unequally long.
                self.rate = max(like.rate, min(like.stream.guessed_rate or like.rate, _FASTEST))
                self._time_base = 1 / self.rate
        self._others: dict[int, Any] = {}
        self._waiting: list[av.Packet[Any]] = []
        self._least, self._end = -(2**62), 0  # of the next frame's pts, and where the last frame ends
        self._converter = VideoReformatter()
        if like and self.codec != "ffv1":
            self._add_others(like)

    def _add_others(self, like: VideoReader) -> None:
        """Add copies of the audio, subtitle and attachment streams, and set metadata and chapters."""
        self.container.metadata.update(_tags(like.container))
        self.container.set_chapters(like.container.chapters())
        others = [stream for stream in like.container.streams if stream is not like.stream]
        for stream in others:
            if stream.type in ("audio", "subtitle", "attachment"):
                with suppress(ValueError):  # the format cannot hold it
                    copy = self.container.add_stream_from_template(stream)
                    copy.metadata.update(stream.metadata)
                    copy.disposition = stream.disposition
                    self._others[stream.index] = copy
        left_out = [stream for stream in others if stream.index not in self._others]
        if left_out:
            names = (f"{stream.type} {getattr(stream.codec_context, 'name', '')}".strip() for stream in left_out)
            log.warning("%s leaves out streams of the input: %s", self.path, ", ".join(names))

    def write(self, pixels: Frame, pts: int | None = None, duration: int = 0) -> None:
        """Append uint8 (H, W, 3) BGR or (H, W) gray. pts, duration: in the time base of ``like``; without, the next."""
        stream = self.stream = self.stream or self._start(*pixels.shape[:2])
        pixels = np.ascontiguousarray(pixels[: stream.height, : stream.width])
        frame = av.VideoFrame.from_ndarray(pixels, "bgr24" if pixels.ndim == 3 else "gray")
        if pixels.ndim == 3:
            frame = self._converter.reformat(
                frame,
                format=stream.pix_fmt,
                dst_colorspace=stream.codec_context.colorspace,
                dst_color_range=stream.codec_context.color_range or None,
                interpolation=_ACCURATE,
            )
        if pts is not None and self.like and self._time_base != self.like.time_base:
            pts, duration = round(pts * self.like.time_base / self._time_base), 1
        # Containers with rounded timestamps can give two frames the same one.
        frame.pts = self._end if pts is None else max(pts, self._least)
        frame.duration = duration or max(1, round(1 / (self.rate * self._time_base)))
        frame.time_base = self._time_base
        self._least, self._end = frame.pts + 1, frame.pts + frame.duration
        self.container.mux(stream.encode(frame))
        while self._waiting:
            self.copy(self._waiting.pop(0))

    def copy(self, packet: av.Packet[Any]) -> None:
        """Append a packet of one of the streams that are copied, if it is not hidden by an edit list."""
        # A format of fixed rate has no time before the first frame.
        shown_s = -_PRIMING_S if self.codec not in _FIXED_RATE else 0
        if packet.is_discard and packet.pts is not None and packet.pts * packet.time_base < shown_s:
            return
        if self.stream is None:  # nothing can be written before the video's size is known
            self._waiting.append(packet)
        elif packet.stream_index in self._others:
            packet.stream = self._others[packet.stream_index]
            self.container.mux_one(packet)

    def _start(self, height: int, width: int) -> VideoStream:
        options, pixel_format = _encoder(self.codec, self.crf)
        if pixel_format.endswith("420p") and (height % 2 or width % 2):
            log.warning("%s: an even size is needed; the last row or column of %dx%d is cut", self.path, height, width)
            height, width = height - height % 2, width - width % 2
        stream = self.container.add_stream(self.codec, rate=self.rate, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = height, width, pixel_format
        stream.time_base = stream.codec_context.time_base = self._time_base
        if self.like:
            for name in _COLOUR:
                setattr(stream.codec_context, name, getattr(self.like.stream.codec_context, name))
            if ratio := self.like.stream.sample_aspect_ratio:
                stream.sample_aspect_ratio = 1 / ratio if self.like.turned else ratio
            stream.metadata.update(_tags(self.like.stream))
        if pixel_format in ("yuvj420p", "gray"):
            stream.codec_context.color_range = _FULL_RANGE
        return stream


def _tags(source: InputContainer | VideoStream) -> dict[str, str]:
    return {name: value for name, value in source.metadata.items() if name not in _OWN_TAGS}


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
