"""The report of a derained recording: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from html import escape
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
from numpy.typing import NDArray

import sapnet
from sapnet.bags.charts import QUANTILES, histogram, line_chart
from sapnet.bags.open import open_recording
from sapnet.bags.recording import Recording
from sapnet.bags.report_data import BagReport, CameraReport
from sapnet.bags.samples import Sample, read_samples
from sapnet.errors import BagError
from sapnet.files import replacing
from sapnet.images.codecs import compress

Frame = NDArray[np.uint8]

JPEG_QUALITY = 85
_MASK_BGR = (32, 160, 255)
_PAGE = Path(__file__).parent / "page"
# Nothing is loaded from anywhere, whatever a name in the recording may hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_html(report: BagReport, path: Path, samples: int = 6) -> None:
    """Write the page to ``path``, whole or not at all; ``samples`` frames of each camera are shown before and after.

    They are read from the report's input and output, one at a time; where these cannot be read any more, the page says
    so. Raises SapnetError where it cannot be written.
    """
    with ExitStack() as stack:
        bags, trouble = _open(report, stack)
        start_ns = bags[0].start_ns if bags else min((c.times_ns[0] for c in report.cameras if c.times_ns), default=0)
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(_page(report, bags, start_ns, samples, trouble))


def _open(report: BagReport, stack: ExitStack) -> tuple[tuple[Recording, Recording] | None, str]:
    """Input and output, or why they cannot be read."""
    try:
        pair = stack.enter_context(open_recording(report.input)), stack.enter_context(open_recording(report.output))
        return pair, ""
    except BagError as err:
        return None, f"There are no sample frames: {err}."


def _page(
    report: BagReport, bags: tuple[Recording, Recording] | None, start_ns: int, samples: int, trouble: str
) -> Iterator[str]:
    title = f"Derained: {_text(Path(report.input).name)}"
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<title>{title}</title>\n<style>\n{_asset('report.css')}</style>\n</head>\n<body>\n"
    yield f"<header>\n<h1>{title}</h1>\n"
    yield f'<p class="paths"><code>{_text(report.input)}</code> → <code>{_text(report.output)}</code></p>\n</header>\n'
    yield _tiles(report)
    yield _notes([*report.notes, trouble])
    yield f"<h2>Cameras</h2>\n{_table(report.cameras)}\n{_network(report)}"
    for number, camera in enumerate(report.cameras):
        yield f'<section>\n<h2 id="camera-{number}">{_text(camera.topic)}</h2>\n'
        yield from _samples(camera, bags, start_ns, samples)
        yield _charts(camera, start_ns)
        yield "</section>\n"
    yield f"<footer>sapnet {sapnet.__version__}</footer>\n"
    yield f"<script>\n{_asset('report.js')}</script>\n</body>\n</html>\n"


def _tiles(report: BagReport) -> str:
    """The figures that are looked for first."""
    latencies = [latency for camera in report.cameras for latency in camera.latencies_ms]
    scores = [score for camera in report.cameras for score in camera.rain_scores]
    figures = [
        ("frames derained", f"{report.frames:,}"),
        ("frames per second", f"{report.frames / report.seconds:.1f}" if report.seconds else "–"),
        ("latency, median", f"{np.median(latencies):.1f} ms" if latencies else "–"),
        ("rain score, mean", f"{fmean(scores):.3f}" if scores else "–"),
        ("messages written", f"{report.messages:,}"),
        ("working time", _duration(report.seconds)),
    ]
    return f'<dl class="tiles">\n{_terms(figures)}</dl>\n'


def _notes(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{_text(note)}</li>\n" for note in notes if note)
    return f'<ul class="notes">\n{items}</ul>\n' if items else ""


def _table(cameras: Sequence[CameraReport]) -> str:
    quantiles = [f"p{quantile} ms" for quantile in QUANTILES]
    titles = ["topic", "frames", "derained", "skipped", "unreadable", "rain score", *quantiles]
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    rows = ""
    for number, camera in enumerate(cameras):
        counts = (camera.frames, camera.derained_frames, camera.skipped, camera.unreadable)
        score = f"{fmean(camera.rain_scores):.3f}" if camera.rain_scores else "–"
        figures = [*(f"{count:,}" for count in counts), score, *_quantiles(camera)]
        named = zip(titles[1:], figures, strict=True)
        cells = "".join(f'<td data-title="{title}">{figure}</td>' for title, figure in named)
        rows += f'<tr><th scope="row"><a href="#camera-{number}">{_text(camera.topic)}</a></th>{cells}</tr>\n'
    return f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>'


def _quantiles(camera: CameraReport) -> list[str]:
    """Latencies at QUANTILES, in milliseconds."""
    if not camera.latencies_ms:
        return ["–"] * len(QUANTILES)
    return [f"{value:.1f}" for value in np.percentile(camera.latencies_ms, QUANTILES)]


def _network(report: BagReport) -> str:
    facts = "".join(
        f"<div><dt>{_text(key)}:</dt> <dd>{_text(value)}</dd></div>\n" for key, value in report.network.items()
    )
    return f'<dl class="network">\n{facts}</dl>\n' if facts else ""


def _samples(
    camera: CameraReport, bags: tuple[Recording, Recording] | None, start_ns: int, count: int
) -> Iterator[str]:
    """Pictures before and after, with what shows and hides the mask."""
    if not bags:
        return
    figures = 0
    for sample in read_samples(camera, *bags, count):
        if not figures:
            yield '<p class="bar-of-tools"><label><input type="checkbox" class="masks"> show the streak mask</label>'
            yield "<span>Drag over a picture, or use the arrow keys.</span></p>\n"
            yield '<div class="samples">\n'
        yield _figure(sample, (sample.time_ns - start_ns) / 1e9)
        figures += 1
    yield "</div>\n" if figures else "<p>No frame can be shown.</p>\n" if camera.derained_frames else ""


def _figure(sample: Sample, seconds: float) -> str:
    height, width = sample.rainy.shape[:2]
    size = f'width="{width}" height="{height}"'
    mask = ""
    if sample.streak_mask is not None:
        mask = f'<img class="mask" alt="streak mask" src="{_png(_tinted(sample.streak_mask))}">\n'
    return (
        '<figure><div class="slider">\n'
        f'<img class="rainy" alt="rainy" {size} src="{_jpeg(sample.rainy)}">\n'
        f'<img class="derained" alt="derained" {size} src="{_jpeg(sample.derained)}">\n{mask}'
        '<span class="name left">rainy</span><span class="name right">derained</span><span class="handle"></span>\n'
        '<input type="range" min="0" max="100" step="1" value="50" '
        f'aria-label="rainy left of here, derained right of it, at {seconds:.2f} s">\n'
        f"</div><figcaption>{seconds:.2f} s · rain score {sample.rain_score:.3f}</figcaption></figure>\n"
    )


def _charts(camera: CameraReport, start_ns: int) -> str:
    length = min(len(camera.times_ns), len(camera.rain_scores))
    seconds = [(time_ns - start_ns) / 1e9 for time_ns in camera.times_ns[:length]]
    cards = ""
    if scores := line_chart("Rain score over time", seconds, camera.rain_scores[:length], "rain score"):
        low, high = min(camera.rain_scores), max(camera.rain_scores)
        said = f"{fmean(camera.rain_scores):.3f} on average, {low:.3f} to {high:.3f}"
        cards += f'<div class="chart"><h3>Rain score</h3>\n{scores}\n<p>{said}</p></div>\n'
    if latencies := histogram("Latency of the network per frame", camera.latencies_ms, "milliseconds"):
        named = [f"p{quantile} {value} ms" for quantile, value in zip(QUANTILES, _quantiles(camera), strict=True)]
        said = ", ".join([*named, f"longest {max(camera.latencies_ms):.1f} ms"])
        cards += f'<div class="chart"><h3>Latency per frame</h3>\n{latencies}\n<p>{said}</p></div>\n'
    return f'<div class="charts">\n{cards}</div>\n' if cards else ""


def _terms(facts: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<div><dt>{key}</dt><dd>{value}</dd></div>\n" for key, value in facts)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"


def _asset(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _text(value: object) -> str:
    """Words of strangers, as they are read: neither markup nor marks that turn the direction of writing."""
    return escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value)))


def _tinted(mask: Frame) -> Frame:
    """BGRA uint8 (H, W, 4): a colour, as dense as the mask uint8 (H, W)."""
    tinted = np.empty((*mask.shape, 4), np.uint8)
    tinted[..., :3] = _MASK_BGR
    tinted[..., 3] = mask
    return tinted


def _jpeg(frame: Frame) -> str:
    return _data_uri("image/jpeg", compress(frame, "jpeg", JPEG_QUALITY).tobytes())


def _png(pixels: Frame) -> str:
    return _data_uri("image/png", cv2.imencode(".png", pixels)[1].tobytes())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
