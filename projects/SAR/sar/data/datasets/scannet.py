"""Classes, class groups and scenes of ScanNet20 and ScanNet200.

ScanNet: Dai et al., CVPR 2017. ScanNet200: Rozenberszki et al., ECCV 2022. The facts come from
github.com/ScanNet/ScanNet: BenchmarkScripts/ScanNet200 and Tasks/Benchmark. Both tasks have the
same scenes and splits. Our class ids follow the order of the official ids, which submissions use.
tools/prepare_scannet.py writes the clouds.
"""

# The name of each official id (nyu40id) of the 20 classes.
CLASSES_20 = {
    1: "wall", 2: "floor", 3: "cabinet", 4: "bed", 5: "chair", 6: "sofa", 7: "table", 8: "door",
    9: "window", 10: "bookshelf", 11: "picture", 12: "counter", 14: "desk", 16: "curtain",
    24: "refrigerator", 28: "shower curtain", 33: "toilet", 34: "sink", 36: "bathtub",
    39: "otherfurniture",
}  # fmt: skip

# The name of each official id of the 200 classes, in three groups: from frequent to rare.
HEAD = {
    1: "wall", 2: "chair", 3: "floor", 4: "table", 5: "door", 6: "couch", 7: "cabinet",
    8: "shelf", 9: "desk", 10: "office chair", 11: "bed", 13: "pillow", 14: "sink",
    15: "picture", 16: "window", 17: "toilet", 18: "bookshelf", 19: "monitor", 21: "curtain",
    22: "book", 23: "armchair", 24: "coffee table", 26: "box", 27: "refrigerator", 28: "lamp",
    29: "kitchen cabinet", 31: "towel", 32: "clothes", 33: "tv", 34: "nightstand",
    35: "counter", 36: "dresser", 38: "stool", 40: "plant", 41: "ceiling", 42: "bathtub",
    48: "backpack", 51: "tv stand", 52: "whiteboard", 55: "shower curtain", 56: "trash can",
    57: "closet", 58: "stairs", 62: "stove", 69: "board", 70: "washing machine", 71: "mirror",
    72: "copier", 74: "sofa chair", 75: "file cabinet", 78: "shower", 86: "blinds",
    89: "blackboard", 96: "radiator", 97: "recycling bin", 99: "wardrobe", 110: "clothes dryer",
    125: "bathroom stall", 128: "shower wall", 159: "kitchen counter", 161: "doorframe",
    540: "mailbox", 1163: "object", 1164: "bathroom vanity", 1165: "closet wall",
    1171: "stair rail",
}  # fmt: skip
COMMON = {
    39: "cushion", 44: "end table", 45: "dining table", 46: "keyboard", 47: "bag",
    49: "toilet paper", 50: "printer", 54: "blanket", 59: "microwave", 63: "shoe",
    64: "computer tower", 65: "bottle", 66: "bin", 67: "ottoman", 68: "bench", 73: "basket",
    76: "fan", 77: "laptop", 80: "person", 82: "paper towel dispenser", 84: "oven", 87: "rack",
    90: "piano", 93: "suitcase", 95: "rail", 98: "container", 101: "telephone", 104: "stand",
    105: "light", 106: "laundry basket", 107: "pipe", 116: "seat", 120: "column",
    121: "bicycle", 122: "ladder", 131: "jacket", 132: "storage bin", 134: "coffee maker",
    136: "dishwasher", 139: "machine", 140: "mat", 141: "windowsill", 154: "bulletin board",
    156: "fireplace", 165: "mini fridge", 177: "water cooler", 188: "shower door",
    191: "pillar", 193: "ledge", 213: "furniture", 214: "cart", 250: "decoration",
    276: "closet door", 283: "vacuum cleaner", 323: "dish rack", 342: "range hood",
    609: "projector screen", 748: "divider", 1156: "bathroom counter", 1166: "laundry hamper",
    1167: "bathroom stall door", 1168: "ceiling light", 1169: "trash bin",
    1173: "bathroom cabinet", 1178: "structure", 1183: "storage organizer",
    1189: "potted plant", 1191: "mattress",
}  # fmt: skip
TAIL = {
    79: "paper", 88: "plate", 100: "soap dispenser", 102: "bucket", 103: "clock", 112: "guitar",
    115: "toilet paper holder", 118: "speaker", 130: "cup", 138: "paper towel roll", 145: "bar",
    148: "toaster", 155: "ironing board", 157: "soap dish", 163: "toilet paper dispenser",
    166: "fire extinguisher", 168: "ball", 169: "hat", 170: "shower curtain rod",
    180: "paper cutter", 185: "tray", 195: "toaster oven", 202: "mouse",
    208: "toilet seat cover dispenser", 221: "storage container", 229: "scale",
    230: "tissue box", 232: "light switch", 233: "crate", 242: "power outlet", 261: "sign",
    264: "projector", 286: "candle", 300: "plunger", 304: "stuffed animal", 312: "headphones",
    325: "broom", 331: "guitar case", 356: "dustpan", 370: "hair dryer", 392: "water bottle",
    395: "handicap bar", 399: "purse", 408: "vent", 417: "shower floor", 488: "water pitcher",
    562: "bowl", 570: "paper bag", 572: "alarm clock", 581: "music stand",
    776: "laundry detergent", 1170: "dumbbell", 1172: "tube", 1174: "cd case",
    1175: "closet rod", 1176: "coffee kettle", 1179: "shower head", 1180: "keyboard piano",
    1181: "case of water bottles", 1182: "coat rack", 1184: "folded chair", 1185: "fire alarm",
    1186: "power strip", 1187: "calendar", 1188: "poster", 1190: "luggage",
}  # fmt: skip
GROUPS = {"head": HEAD, "common": COMMON, "tail": TAIL}
CLASSES_200 = dict(sorted((HEAD | COMMON | TAIL).items()))

# The number of scans of each space with labels. Space 3 has the scans scene0003_00 to scene0003_02.
_SCANS = (
    "322312311322331133122121331313332132213222323231213431132223223123132111343112323312323343"
    "115312312236221331123332333131232321321113313133112323213211323213123153124331323223211311"
    "143111221113321313113313333313243132112132231121131332112223133121123131112331123422332133"
    "322231232331311141321322322312232312231231331112114112221113123133233132112223323233123232"
    "134123122332121333313323131321113323322221123132222321135133331332412121213412123111222333"
    "163211232211121221332332633223222121122311221111312331151133321123231121132321231122213113"
    "331313133211232123331211111232323233313323333234432322113333321232323432233221112122123233"
    "73121211113141133222131223411211333233122226222332211123311122532434213332231"
)
_VAL_SPACES = {
    11, 15, 19, 25, 30, 46, 50, 63, 64, 77, 81, 84, 86, 88, 95, 100, 131, 139, 144, 146, 149,
    153, 164, 169, 187, 193, 196, 203, 207, 208, 217, 221, 222, 231, 246, 249, 251, 256, 257,
    277, 278, 300, 304, 307, 314, 316, 328, 329, 334, 338, 342, 343, 351, 353, 354, 355, 356,
    357, 377, 378, 382, 389, 406, 412, 414, 423, 426, 427, 430, 432, 435, 441, 458, 461, 462,
    474, 488, 490, 494, 496, 500, 518, 527, 535, 549, 550, 552, 553, 558, 559, 565, 568, 574,
    575, 578, 580, 583, 591, 593, 595, 598, 599, 606, 607, 608, 609, 616, 618, 621, 629, 633,
    643, 644, 645, 647, 648, 651, 652, 653, 655, 658, 660, 663, 664, 665, 670, 671, 678, 684,
    685, 686, 689, 690, 693, 695, 696, 697, 699, 700, 701, 702, 704,
}  # fmt: skip
_TEST_SPACES = range(len(_SCANS), 807)  # one scan each


def scenes() -> dict[str, list[str]]:
    """Return the names of the scenes of each split: 1,201 train, 312 val and 100 test."""
    result: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for space, num_scans in enumerate(_SCANS):
        split = "val" if space in _VAL_SPACES else "train"
        result[split] += [f"scene{space:04d}_{scan:02d}" for scan in range(int(num_scans))]
    result["test"] = [f"scene{space:04d}_00" for space in _TEST_SPACES]
    return result
