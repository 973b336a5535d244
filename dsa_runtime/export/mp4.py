"""MP4: H.264 at the world's own rate, in the 4:2:0 format that every player and browser shows."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

from PIL import Image

_CRF = "17"  # constant rate factor: visually lossless for blocky pictures
_FINEST_RATE = 1000  # denominators above this are not real frame rates


def write_mp4(path: Path, size: tuple[int, int], fps: float, frames: Iterable[Image.Image]) -> None:
    """Write the frames, RGB pictures of `size`, as they come."""
    import av

    # The format is named, because the file has another suffix until it is whole. Its index goes to the front, so that a
    # browser can start before it has all of it.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(_FINEST_RATE))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": _CRF}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
