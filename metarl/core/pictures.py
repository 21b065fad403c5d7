"""Pictures that environments draw."""

from __future__ import annotations

import numpy as np

from metarl.core.env import NoPictures


def as_pixels(picture: np.ndarray) -> np.ndarray:
    """Returns a picture (height, width, 3) as uint8; floats in [0, 1] are scaled to 0 .. 255.

    Raises:
        NoPictures: The array is no picture; names its shape, or its type and range.
    """
    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise NoPictures(f"render returned an array of shape {picture.shape}, no picture")
    if picture.dtype == np.uint8:
        return picture
    kind, low, high = picture.dtype.kind, picture.min(), picture.max()
    # a comparison with NaN is false, hence the negation
    if kind not in "fiu" or not (low >= 0 and high <= (1 if kind == "f" else 255)):
        found = f"{picture.dtype} from {low} to {high}"
        raise NoPictures(f"render returned {found}; a picture is uint8, or float from 0 to 1")
    return np.rint(255.0 * picture if kind == "f" else picture).astype(np.uint8)
