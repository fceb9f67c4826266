"""COCO's images that other tasks are tested on: multi-task training leaves them out, split "mteval" is made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from volta_switch.data.annotations import file_names
from volta_switch.data.image_ids import id_text, plain_id
from volta_switch.errors import UserError


def load_coco_test_ids(dataroot: str | Path) -> set[str]:
    """Read the image ids of `<dataroot>/cache/coco_test_ids.npy`, as `plain_id` gives them.

    Raises UserError where it is no list of ids.
    """
    path = file_names.coco_test_ids(Path(dataroot))
    try:
        return {plain_id(id_text(image_id)) for image_id in np.load(path, allow_pickle=False).tolist()}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); split mteval needs it, choose another") from error
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(
            f"{path}: expected an array of image ids ({type(error).__name__}: {str(error)[:200]}); "
            "save it again as plain integers"
        ) from error
