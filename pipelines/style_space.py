"""What can be asked of style transfer. Needs no torch."""

from .recipe import first as first
from .registry import DIRECTIONS as DIRECTIONS

OTHER = dict(zip(DIRECTIONS, DIRECTIONS[::-1], strict=True))  # the way back
STRENGTH = (0.0, 1.5)  # 0 the picture itself, 1 what the net makes of it, beyond: exaggerated
TONE = (0.0, 1.5)  # how much of the change of colour and light across the picture, 1: all
HIDDEN = (0.0, 0.5)  # standard deviation of the noise on the way back, pixels in [-1, 1]
SIZES = (128, 256, 512, 1024, 0)  # longer side in px of what is worked on; 0: the picture's own size
SIZE = 512  # where nothing else is asked for: sharp on a page, and still a moment
MAX_WORK = 4_000_000  # px, at its own size
LEAST = 16  # px; pictures that are narrower are continued up to here, which is more than the nets' deepest layers need


def work_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Size of a picture -> the one that it is worked on at, its aspect kept as far as whole pixels allow.

    size: one of SIZES. A picture that is narrower than LEAST counts as that wide, so that MAX_WORK holds for it, too.
    """
    longer, shorter = max(width, height), min(width, height)
    scale = size / longer if size else min(1.0, (MAX_WORK / (longer * shorter)) ** 0.5)
    shorter = max(1, int(shorter * scale) if not size else round(shorter * scale))
    longer = size or min(max(1, int(longer * scale)), MAX_WORK // max(shorter, LEAST))
    return (longer, shorter) if width >= height else (shorter, longer)
