"""Makes the pictures of this folder, and beside each what Pillow reads from it: raw bytes, row by row.

    python make.py          (Pillow 13)

Each is a gradient with an edge in it, of odd extents, a few hundred bytes long.
"""
import io
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent


def scene(width, height, channels, shift=0):
    y, x = np.mgrid[0:height, 0:width]
    planes = [255 * x // (width - 1), 255 * y // (height - 1), 255 * (x + y) // (width + height - 2), 80 + 175 * (x > y)]
    picture = np.stack(planes[:channels], -1).astype(np.uint8)
    picture[2:7, 3 + shift : 8 + shift, : min(channels, 3)] = 0
    return picture


def keep(name, mode=None):
    with Image.open(HERE / name) as image:
        frames = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(np.asarray(image.convert(mode) if mode else image))
    (HERE / f"{name}.raw").write_bytes(b"".join(frame.tobytes() for frame in frames))


def main():
    rgb, rgba = Image.fromarray(scene(13, 9, 3)), Image.fromarray(scene(13, 9, 4))
    rgb.save(HERE / "colour.png")
    rgba.save(HERE / "alpha.png")
    rgb.convert("L").save(HERE / "grey.png")
    rgba.convert("LA").save(HERE / "grey_alpha.png")
    rgb.quantize(16).save(HERE / "palette.png")
    rgb.convert("1").save(HERE / "one_bit.png")
    rgb.save(HERE / "baseline.jpg", quality=95, subsampling=0)
    large = Image.fromarray(scene(33, 17, 3))
    large.save(HERE / "progressive.jpg", quality=90, progressive=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    large.save(HERE / "turned.jpg", quality=95, subsampling=0, exif=turned)
    large.convert("L").save(HERE / "grey.jpg", quality=95)
    large.convert("CMYK").save(HERE / "cmyk.jpg", quality=95)
    large.save(HERE / "lossy.webp", quality=90)
    rgba.save(HERE / "lossless.webp", lossless=True, exact=True)
    motion = [Image.fromarray(scene(13, 9, 3, shift)) for shift in range(4)]
    motion[0].save(HERE / "motion.webp", save_all=True, append_images=motion[1:], duration=40, lossless=True)
    # Pillow stores only what changes from frame to frame.
    motion[0].save(HERE / "motion.gif", save_all=True, append_images=motion[1:], duration=50, loop=0)
    vanish = [m.convert("P", palette=Image.Palette.ADAPTIVE, colors=32) for m in motion]
    vanish[0].save(HERE / "cleared.gif", save_all=True, append_images=vanish[1:], duration=50, disposal=2)
    for name, mode in [
        ("colour.png", None), ("alpha.png", None), ("grey.png", None), ("grey_alpha.png", None), ("palette.png", "RGB"),
        ("one_bit.png", "L"), ("baseline.jpg", None), ("progressive.jpg", None), ("grey.jpg", None), ("cmyk.jpg", "RGB"),
        ("lossy.webp", None), ("lossless.webp", None), ("motion.webp", "RGB"), ("motion.gif", "RGB"), ("cleared.gif", "RGB"),
    ]:
        keep(name, mode)
    with Image.open(HERE / "turned.jpg") as image:
        from PIL import ImageOps
        (HERE / "turned.jpg.raw").write_bytes(ImageOps.exif_transpose(image).tobytes())


main()
