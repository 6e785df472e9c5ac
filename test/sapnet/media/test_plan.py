"""What is read and written under which name, and what is refused before any work starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sapnet.errors import SapnetError
from sapnet.media.plan import Job, plan_jobs

Touch = Callable[..., list[Path]]


@pytest.fixture
def touch(tmp_path: Path) -> Touch:
    """``touch(name, ...)``: empty files in ``tmp_path``, which is all that a plan looks at."""

    def make(*names: str) -> list[Path]:
        paths = [tmp_path / name for name in names]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return paths

    return make


def test_files_and_folders_keep_names_and_layout(tmp_path: Path, touch: Touch) -> None:
    touch("in/b.jpg", "in/A.MP4", "in/trip/day 2/b.webp", "c.png")
    touch("in/.b.png", "in/.thumbnails/c.png", "in/notes.txt", "in/out/old.png")  # hidden, others, and an earlier run's
    (tmp_path / "in/folder.png").mkdir()
    jobs = plan_jobs([tmp_path / "in", tmp_path / "c.png"], tmp_path / "in/out")
    assert [str(job.output.relative_to(tmp_path / "in/out")) for job in jobs] == [
        "A.MP4",
        "b.jpg",
        "trip/day 2/b.webp",
        "c.png",
    ]
    assert jobs[-1].source == tmp_path / "c.png"
    assert [job.is_video for job in jobs] == [True, False, False, False]
    assert [job.mask for job in jobs] == [None] * 4


def test_one_file_to_a_file(tmp_path: Path, touch: Touch) -> None:
    [image, video] = touch("a.png", "a.avi")
    assert plan_jobs([image], tmp_path / "b.jpg", masks=True) == [
        Job(image, tmp_path / "b.jpg", tmp_path / "b_streak_mask.png")
    ]
    assert plan_jobs([video], tmp_path / "b.mp4", masks=True) == [
        Job(video, tmp_path / "b.mp4", tmp_path / "b_streak_mask.mkv")
    ]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("out", ["in", "in/trip/../", "link", "in/a.png"])
def test_inputs_are_never_overwritten(tmp_path: Path, touch: Touch, out: str, overwrite: bool) -> None:
    image, _ = touch("in/a.png", "in/trip/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(SapnetError, match=r"in/a\.png is an input and would be overwritten"):
        plan_jobs([image], tmp_path / out, overwrite=overwrite)


def test_two_inputs_for_one_mask(tmp_path: Path, touch: Touch) -> None:
    inputs = touch("a.png", "a.jpg")
    assert len(plan_jobs(inputs, tmp_path / "out")) == 2
    with pytest.raises(SapnetError, match=r"would both be written to .*a_streak_mask\.png"):
        plan_jobs(inputs, tmp_path / "out", masks=True)
