"""Classes, sequences and numbers of scans of SemanticKITTI (Behley et al., ICCV 2019).

The benchmark evaluates single scans with 19 classes; moving objects belong to the class of their
kind. The facts come from github.com/PRBonn/semantic-kitti-api (config/semantic-kitti.yaml). Our
class ids follow the order of CLASSES; submissions use the official ids.
tools/prepare_semantic_kitti.py writes the labels.
"""

# The name of each official id that is a class.
CLASSES = {
    10: "car", 11: "bicycle", 15: "motorcycle", 18: "truck", 20: "other-vehicle", 30: "person",
    31: "bicyclist", 32: "motorcyclist", 40: "road", 44: "parking", 48: "sidewalk",
    49: "other-ground", 50: "building", 51: "fence", 70: "vegetation", 71: "trunk", 72: "terrain",
    80: "pole", 81: "traffic-sign",
}  # fmt: skip
# The class of each other id: bus, on-rails and lane-marking, and moving objects.
MERGED = {
    13: 20, 16: 20, 60: 40,
    252: 10, 253: 31, 254: 30, 255: 32, 256: 20, 257: 20, 258: 18, 259: 20,
}  # fmt: skip
IGNORED = (0, 1, 52, 99)  # unlabeled, outlier, other-structure, other-object

# The number of scans of each sequence. The sequences of "test" have no public labels.
NUM_SCANS = {
    "train": {
        0: 4541, 1: 1101, 2: 4661, 3: 801, 4: 271, 5: 2761, 6: 1101, 7: 1101, 9: 1591, 10: 1201,
    },
    "val": {8: 4071},
    "test": {
        11: 921, 12: 1061, 13: 3281, 14: 631, 15: 1901, 16: 1731, 17: 491, 18: 1801, 19: 4981,
        20: 831, 21: 2721,
    },
}  # fmt: skip
