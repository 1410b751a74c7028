"""Segments as clips that browsers play (h264 in mp4, vp9 in webm) and a still picture, made once for each content.

Only segments that somebody asks for are drawn. A clip's key is a digest of all that its pictures depend on, so equal
segments share one, and whatever draws otherwise draws anew. A clip appears by one rename, whole.

Left out: sound, captions; clearing the cache (delete the folder: everything in it can be drawn again).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from dataclasses import asdict, dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tropism.digests import digest
from tropism.environments.rendering import RENDERER, Painter, Pixels, View
from tropism.environments.segments import Segment
from tropism.errors import DataError, StoreError

# with frames out of order or a lookahead, x264 reads memory that nobody set, and equal pictures give other bytes
H264: dict[str, str] = {"preset": "veryfast", "crf": "20", "bf": "0", "x264-params": "mbtree=0"}
VP9: dict[str, str] = {"crf": "32", "b": "0", "deadline": "realtime", "cpu-used": "6"}
"""Constant quality, and presets that take less time for a small picture than drawing it did."""


@dataclass(frozen=True)
class Clip:
    """A clip in the cache: ``folder`` has ``clip.mp4``, ``clip.webm``, ``still.png`` and ``clip.json``."""

    key: str
    folder: Path
    frames: int
    width: int
    height: int
    rate: float

    @property
    def mp4(self) -> Path:
        """h264, which every browser plays but a few free builds."""
        return self.folder / "clip.mp4"

    @property
    def webm(self) -> Path:
        """vp9, which those play."""
        return self.folder / "clip.webm"

    @property
    def still(self) -> Path:
        """The first picture."""
        return self.folder / "still.png"


class ClipCache:
    """Clips in a folder. A context manager: it keeps what draws the kind of environment that was asked for last."""

    def __init__(self, folder: Path, view: View | None = None) -> None:
        self.folder, self.view = folder, view or View()
        self._painter: Painter | None = None

    def __enter__(self) -> ClipCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give back what draws."""
        if self._painter is not None:
            self._painter.close()
            self._painter = None

    def key(self, segment: Segment) -> str:
        """The content's address, 64 hex digits: of states (or of what is played again), view, and whoever draws."""
        seen: dict[str, Any] = {"states": _array(segment.states)}
        if segment.states is None and segment.episode is not None:
            seen = {
                "episode": asdict(segment.episode),
                "played": _array(segment.played),
                "actions": _array(segment.actions),
            }
        environment = segment.environment.as_json()
        del environment["penalty"]  # nobody sees it
        environment["arguments"] = repr(sorted(segment.environment.arguments.items()))  # JSON knows no infinity
        return digest(
            {
                "environment": environment,
                "seen": seen,
                "view": asdict(self.view),
                "codecs": [H264, VP9],
                "renderer": [RENDERER, version("gymnasium"), version("mujoco"), version("av")],
            }
        )

    def find(self, segment: Segment) -> Clip | None:
        """The segment's clip if it was made before."""
        key = self.key(segment)
        return _clip(key, self._place(key))

    def clip(self, segment: Segment) -> Clip:
        """The segment's clip, made now if it is not there. Errors: ConfigError for what cannot be drawn here."""
        key = self.key(segment)
        place = self._place(key)
        if (found := _clip(key, place)) is not None:
            return found
        if self._painter is None or self._painter.spec != segment.environment:
            self.close()
            self._painter = Painter(segment.environment, self.view)
        frames, rate = self._painter.frames(segment), self._painter.rate
        partial = self.folder / "tmp" / uuid.uuid4().hex
        partial.mkdir(parents=True)
        try:
            write_clip(frames, rate, partial / "clip.mp4")
            write_clip(frames, rate, partial / "clip.webm")
            write_picture(frames[0], partial / "still.png")
            about = {"frames": len(frames), "width": frames.shape[2], "height": frames.shape[1], "rate": rate}
            (partial / "clip.json").write_text(json.dumps(about), "utf-8")
            place.parent.mkdir(exist_ok=True)
            try:
                partial.rename(place)
            except OSError:
                if not place.is_dir():  # else another process has drawn the same in the meantime
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        made = _clip(key, place)
        assert made is not None
        return made

    def _place(self, key: str) -> Path:
        return self.folder / key[:2] / key


def _clip(key: str, folder: Path) -> Clip | None:
    try:
        about = json.loads((folder / "clip.json").read_text("utf-8"))
        return Clip(key, folder, **about)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise StoreError(f"the clip {folder} is damaged: {error}", "delete its folder; it is drawn again") from error


def write_clip(frames: Pixels, rate: float, path: Path) -> None:
    """Write pictures ``[F, H, W, 3]`` (sizes even) as a video: ``.mp4`` is h264, ``.webm`` vp9. Equal pictures give
    equal bytes. Errors: DataError for another ending, or pictures that no codec takes."""
    import av

    kinds = {".mp4": ("libx264", H264, {"movflags": "+faststart"}), ".webm": ("libvpx-vp9", VP9, {})}
    if path.suffix not in kinds:
        raise DataError(f"{path.name} has no ending of a clip", f"end it in {' or '.join(kinds)}")
    if frames.ndim != 4 or frames.shape[3] != 3 or not len(frames) or frames.shape[1] % 2 or frames.shape[2] % 2:
        raise DataError(f"a clip of {frames.shape}", "give [frames, height, width, 3] with even height and width")
    codec, options, container = kinds[path.suffix]
    with av.open(str(path), "w", options={"fflags": "+bitexact", **container}) as file:
        stream: Any = file.add_stream(codec, rate=Fraction(rate).limit_denominator(1001), options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1  # small pictures; and threads would change the bytes
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        file.mux(stream.encode(None))


def write_picture(frame: Pixels, path: Path) -> None:
    """Write one picture ``[H, W, 3]`` as PNG."""
    import av

    coder: Any = av.CodecContext.create("png", "w")
    coder.height, coder.width, coder.pix_fmt, coder.time_base = *frame.shape[:2], "rgb24", Fraction(1, 25)
    packets = [*coder.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")), *coder.encode(None)]
    path.write_bytes(b"".join(bytes(packet) for packet in packets))


def _array(array: NDArray[Any] | None) -> list[Any]:
    """What an array is, as JSON: type, shape, digest of its bytes."""
    if array is None:
        return []
    return [str(array.dtype), list(array.shape), hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()]
