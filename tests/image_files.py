"""Write image files of many kinds for tests."""

import struct

from PIL import Image, TiffImagePlugin


def save(path, array, **kwargs):
    Image.fromarray(array).save(path, **kwargs)
    return path


def truncate(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def with_orientation(path, array, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(path, array, exif=exif)


def tiff(path, array, photometric=1):
    """Write bands (H, W, C), which Pillow cannot do; photometric 1 is grey, 2 is RGB."""
    height, width, bands = array.shape
    bits, pixels = 8 * array.dtype.itemsize, array.astype(array.dtype.newbyteorder("<")).tobytes()
    sample_format = "uif".index(array.dtype.kind) + 1
    others = bands - (1 if photometric == 1 else 3)
    tags = {
        256: width, 257: height, 258: [bits] * bands, 259: 1, 262: photometric, 273: 0,
        277: bands, 284: 1, 338: [0] * others, 339: [sample_format] * bands,
    }  # fmt: skip
    return written_tiff(path, tags, pixels)


def written_tiff(path, tags, pixels):
    """Write a TIFF with one strip."""
    tags = {**tags, 278: tags[257], 279: len(pixels)}
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        if value != []:
            directory[tag] = value
    # Pillow adds the end of the directory to the offset of the strip.
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + directory.tobytes(8) + pixels)
    return path


def pages(path, *arrays, **kwargs):
    first, *others = map(Image.fromarray, arrays)
    first.save(path, save_all=True, append_images=others, **kwargs)
    return path
