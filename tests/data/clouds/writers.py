"""Write small clouds in every format, without the package."""

import numpy as np

_PLY_TYPES = {
    "i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint",
    "f4": "float", "f8": "double", "i8": "int", "u8": "uint",
}  # fmt: skip


def columns_of(xyz, color=None, intensity=None, label=None):
    """Return the columns of a cloud by name, in the order of most files."""
    columns = dict(zip("xyz", np.asarray(xyz).T, strict=True))
    if color is not None:
        columns |= zip(("red", "green", "blue"), np.asarray(color).T, strict=True)
    if intensity is not None:
        columns["intensity"] = intensity
    if label is not None:
        columns["label"] = label
    return columns


def write_ply(path, *, order="<", extra="", **arrays):
    """Write vertices, and a face after them; order "" is text."""
    columns = columns_of(**arrays)
    form = {"<": "binary_little_endian", ">": "binary_big_endian", "": "ascii"}[order]
    lines = ["ply", f"format {form} 1.0", "comment made by a test"]
    lines.append(f"element vertex {len(columns['x'])}")
    types = {name: column.dtype.str[1:].replace("8", "4" if column.dtype.kind in "iu" else "8")
             for name, column in columns.items()}  # fmt: skip
    types = {name: kind.replace("b1", "u1") for name, kind in types.items()}
    lines += [f"property {_PLY_TYPES[types[name]]} {name}" for name in columns]
    lines += ["element face 1", "property list uchar int vertex_indices", "end_header", ""]
    if order == "":
        face = b"3 0 1 2\n"
        data = text_rows(columns, " ")
    else:
        records = np.zeros(
            len(columns["x"]), [(name, order + kind) for name, kind in types.items()]
        )
        for name, column in columns.items():
            records[name] = column
        face = b"\x03" + np.arange(3, dtype=order + "i4").tobytes()
        data = records.tobytes()
    path.write_bytes("\n".join(lines).encode() + data + face)


def write_npz(path, **arrays):
    if arrays.get("color") is not None:
        arrays["color"] = np.asarray(arrays["color"], np.uint8)
    np.savez(path, **arrays)


def write_text(path, separator=" ", **arrays):
    columns = columns_of(**arrays)
    path.write_bytes(f"{separator.join(columns)}\n".encode() + text_rows(columns, separator))


def text_rows(columns, separator):
    lists = [column.tolist() for column in columns.values()]
    return "".join(
        separator.join(map(repr, row)) + "\n" for row in zip(*lists, strict=True)
    ).encode()


def write_kitti(path, xyz, intensity=None, label=None, color=None):
    fourth = np.zeros(len(xyz)) if intensity is None else intensity
    np.column_stack([xyz, fourth]).astype("<f4").tofile(path)
    if label is not None:
        objects = np.arange(len(label), dtype="<u4") << 16
        (label.astype("<u4") | objects).tofile(path.with_suffix(".label"))


def write_las(path, xyz, color=None, intensity=None, label=None, point_format=3):
    import laspy

    las = laspy.create(point_format=point_format, file_version="1.2" if point_format < 6 else "1.4")
    las.header.scales = [2.0**-10] * 3
    las.x, las.y, las.z = np.asarray(xyz).T
    if color is not None:
        las.red, las.green, las.blue = np.asarray(color).T * 257
    if intensity is not None:
        las.intensity = intensity
    if label is not None:
        las.classification = label
    las.write(str(path))


WRITERS = {
    ".ply": write_ply,
    ".las": write_las,
    ".laz": write_las,
    ".npz": write_npz,
    ".txt": write_text,
    ".xyz": write_text,
    ".csv": lambda path, **arrays: write_text(path, ",", **arrays),
    ".pts": write_text,
    ".bin": write_kitti,
}


def write(path, **arrays):
    WRITERS[path.suffix](path, **arrays)
