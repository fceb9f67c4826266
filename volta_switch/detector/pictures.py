"""Files of pictures: decoded, turned upright, as RGB, and as the network's input."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from volta_switch.detector.settings import DetectorConfig, network_size
from volta_switch.errors import BadRecord, first_line

MOST_PIXELS = 100_000_000  # 300 MB once decoded
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
# Others are not opened: Pillow hands some of them (EPS) to a program of its own.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")


def is_picture(path: Path) -> bool:
    """Returns whether a name ends as those of pictures do."""
    return path.suffix.lower() in SUFFIXES


def read_picture(source: Path | bytes, name: str = "") -> Image.Image:
    """Returns a picture as a person sees it, in mode "RGB".

    It is turned as its EXIF tag says. What is transparent shows white. Grey, palettes, 16 bits a channel and CMYK
    become RGB. Of several frames the first counts.

    Args:
        source: a file, or what one holds.
        name: what errors call it; of a file its path.

    Raises:
        BadRecord: it is no picture, cut short, damaged, or has more than ``MOST_PIXELS``.
    """
    name = name or str(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd files, and on large ones, which are bounded here
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise BadRecord(_too_large(name, f"{image.width} x {image.height} pixels"))
                image.load()
                deep = image.mode in _SIXTEEN_BITS or (image.format == "PPM" and image.mode == "I")
                upright = ImageOps.exif_transpose(image)
                return _from_sixteen_bits(upright) if deep else _as_rgb(upright, name)
    except BadRecord:
        raise
    except UnidentifiedImageError:
        raise BadRecord(f"{name}: not a picture; expected one of {', '.join(_FORMATS)}") from None
    except Image.DecompressionBombError:
        raise BadRecord(_too_large(name, "far too many pixels")) from None
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise BadRecord(f"{name}: cannot be read as a picture ({reason}); copy it again") from None
    except Exception as error:  # a damaged file can fail in any way
        raise BadRecord(
            f"{name}: a damaged picture ({type(error).__name__}: {first_line(error)}); copy it again"
        ) from None


def _too_large(name: str, found: str) -> str:
    return f"{name}: {found}, at most {MOST_PIXELS:,} are read; make it smaller"


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8)).convert("RGB")


def _as_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in ("I", "F"):
        raise BadRecord(f"{name}: 32 bits a pixel, whose black and white no file says; save it with 8 or 16 bits")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def network_input(image: Image.Image, config: DetectorConfig) -> Tensor:
    """Returns the input of the network, (3, h, w) float32: blue, green, red, the mean subtracted."""
    width, height = network_size(image.width, image.height, config)
    if config.resizing == "pillow":
        pixels = _tensor(image.resize((width, height), Image.Resampling.BILINEAR))
    else:
        pixels = torch.nn.functional.interpolate(_tensor(image)[None], (height, width), mode="bilinear")[0]
    return pixels.flip(0) - torch.tensor(config.pixel_mean)[:, None, None]


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()  # (3, h, w), red first
