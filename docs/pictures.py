"""Make the pictures of README and docs: ``python docs/pictures.py --data FOLDER``.

FOLDER holds ``real_rain_video`` (NTURain, MIT licence of the repository S2VD) and ``driving`` (Udacity CarND, MIT).
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import cv2
import grimp
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sapnet import Derainer, load_weights
from sapnet.config import PRESETS
from sapnet.files import natural_key
from sapnet.images.frame import Frame, psnr_y, to_tensor
from sapnet.media.contact_sheet import contact_sheet
from sapnet.media.sequence import RainyFrame, RainySequence
from sapnet.rain import RainSynthesizer

IMAGES = Path(__file__).parent / "images"
SEED = 3
GAP = 8  # pixels between the parts of a picture

# What the diagram shows: the modules that a frame comes through, by the thread that runs them.
THREADS = {
    "receives (executor)": ["sapnet_ros.derain_node", "sapnet_ros.node", "sapnet_ros.camera", "sapnet_ros.mailbox"],
    "decides and publishes (worker)": ["sapnet_ros.dispatch", "sapnet_ros.fate"],
    "runs the network (inference)": ["sapnet_ros.inference", "sapnet.derainer", "sapnet.backends", "sapnet.model"],
    "loads and builds (loader)": ["sapnet_ros.loader"],
}


def main() -> None:
    """Write every picture to docs/images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="folder of the source frames")
    data = parser.parse_args().data
    still = cv2.imread(str(sorted((data / "driving").glob("*.jpg"))[0]))[200:680, 320:960]
    demo()
    street(data / "real_rain_video")
    stages(still)
    masks(still)
    attention(still)
    architecture()


def demo() -> None:
    """The first frame of each photograph of the demo: rainy, derained, streak mask and clean."""
    firsts: dict[str, tuple[int, RainyFrame]] = {}
    for number, frame in enumerate(RainySequence(rain="light")):
        firsts.setdefault(frame.name, (number, frame))
    rows, labels = [], []
    with Derainer("sapnet_fast") as derainer:
        for name, (number, frame) in firsts.items():
            assert frame.clean is not None
            (result,) = derainer([frame.rainy])
            before, after = psnr_y(frame.rainy, frame.clean), psnr_y(result.image, frame.clean)
            labels.append(f"frame {number}, {name}: rainy {before:.1f} dB, derained {after:.1f} dB")
            shown = (frame.rainy, result.image, result.streak_mask, frame.clean)
            rows.append(dict(zip(("rainy", "derained", "streak mask", "clean"), shown, strict=True)))
    contact_sheet(rows, IMAGES / "demo.jpg", labels)


def street(folder: Path) -> None:
    """A rainy street before and after, as an animated WebP below 1 MB."""
    paths = sorted(folder.rglob("*.[jp][pn]g"), key=lambda path: natural_key(path.name))[:44]
    frames = [cv2.imread(str(path)) for path in paths]
    with Derainer("sapnet_fast") as derainer:
        pairs = [(frame, derainer([frame])[0].image) for frame in frames]
    shown = []
    for rainy, derained in pairs:
        height, width = rainy.shape[:2]
        left, right = slice(width // 8, width // 8 + width * 5 // 8), slice(height // 8, height // 8 + height * 3 // 4)
        both = beside([titled(image[right, left], name) for image, name in ((rainy, "rainy"), (derained, "derained"))])
        shown.append(Image.fromarray(cv2.cvtColor(both, cv2.COLOR_BGR2RGB)))
    shown[0].save(
        IMAGES / "street.webp", save_all=True, append_images=shown[1:], duration=80, loop=0, quality=40, method=6
    )


def stages(clean: Frame) -> None:
    """A crop in heavy rain, and the estimate after each stage."""
    rainy = raining(clean, "heavy")[120:360, 200:440]
    parts = [titled(rainy, "rainy")]
    for count in range(1, PRESETS["sapnet_fast"].stages + 1):
        with Derainer("sapnet_fast", stages=count) as derainer:
            parts.append(titled(derainer([rainy])[0].image, f"stage {count}"))
    cv2.imwrite(str(IMAGES / "stages.jpg"), beside(parts))


def masks(clean: Frame) -> None:
    """Rainy, derained, soft mask and binary mask of one frame."""
    rainy = raining(clean, "medium")[60:420, 160:480]
    with Derainer("sapnet_fast") as derainer:
        (result,) = derainer([rainy])
    soft, binary = (cv2.cvtColor(plane, cv2.COLOR_GRAY2BGR) for plane in (result.streaks, result.streak_mask))
    parts = [(rainy, "rainy"), (result.image, "derained"), (soft, "streaks (soft mask)"), (binary, "binary mask")]
    cv2.imwrite(str(IMAGES / "masks.jpg"), beside([titled(*part) for part in parts]))


def attention(clean: Frame) -> None:
    """Gates of one block's attention, stage by channel, without rain, in light and in heavy rain."""
    network = load_weights("sapnet_fast")
    block = network.blocks[1].attention1  # the one that rain changes most
    parts = []
    for kind in ("none", "light", "heavy"):
        frame = clean if kind == "none" else raining(clean, kind)
        gates: list[NDArray[np.float32]] = []
        hook = block.register_forward_hook(lambda _, inputs, output, seen=gates: seen.append(gate(inputs[0], output)))
        with torch.inference_mode():
            network(to_tensor(frame))
        hook.remove()
        plane = (np.stack(gates) * 255).round().astype(np.uint8)  # (stages, channels)
        heat = cv2.applyColorMap(
            cv2.resize(plane, None, fx=10, fy=30, interpolation=cv2.INTER_NEAREST), cv2.COLORMAP_VIRIDIS
        )
        parts.append(titled(heat, f"{kind if kind != 'none' else 'no'} rain"))
    cv2.imwrite(str(IMAGES / "attention.png"), beside(parts))


def gate(before: torch.Tensor, after: torch.Tensor) -> NDArray[np.float32]:
    """By how much attention scaled each channel, (C,)."""
    scale: NDArray[np.float32] = (after.abs().sum((0, 2, 3)) / before.abs().sum((0, 2, 3)).clamp(min=1e-12)).numpy()
    return scale


def architecture() -> None:
    """The modules that a frame comes through and their imports, read from the code, as SVG (needs Graphviz's dot)."""
    graph = grimp.build_graph("sapnet_ros", "sapnet", exclude_type_checking_imports=True)
    names = [name for group in THREADS.values() for name in group]
    lines = [
        "digraph { rankdir=LR; node [shape=box style=filled fillcolor=white fontname=sans fontsize=11]; fontname=sans;"
    ]
    lines += ["bgcolor=white; edge [color=gray40];"]
    for index, (thread, modules) in enumerate(THREADS.items()):
        lines.append(
            f'subgraph cluster_{index} {{ label="{thread}"; style="rounded,filled"; fillcolor=gray95; color=gray70;'
        )
        lines += [f'"{name}";' for name in modules]
        lines.append("}")
    lines += [
        f'"{importer}" -> "{imported}";'
        for importer in names
        for imported in names
        if importer != imported and imports(graph, importer, imported)
    ]
    subprocess.run(
        ["dot", "-Tsvg", "-o", IMAGES / "architecture.svg"], input="\n".join([*lines, "}"]), text=True, check=True
    )


def imports(graph: grimp.ImportGraph, importer: str, imported: str) -> bool:
    """Whether a module, or one inside it, imports the other."""
    sources = {importer} | graph.find_descendants(importer)
    targets = {imported} | graph.find_descendants(imported)
    return any(targets & graph.find_modules_directly_imported_by(source) for source in sources)


def raining(frame: Frame, kind: str) -> Frame:
    """The frame in synthetic rain."""
    rainy, _ = RainSynthesizer(kind, *frame.shape[:2], seed=SEED).add(frame, 0)
    return rainy


def titled(image: Frame, title: str) -> Frame:
    """The image under a line that names it."""
    bar = np.full((24, image.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
    return np.vstack([bar, image])


def beside(images: list[Frame]) -> Frame:
    """Images of equal height in a row."""
    gap = np.full((images[0].shape[0], GAP, 3), 255, np.uint8)
    return np.hstack([part for image in images for part in (image, gap)][:-1])


if __name__ == "__main__":
    main()
