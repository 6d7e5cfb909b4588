"""Run a model that tools/export.py wrote, with ONNX Runtime, NumPy and Pillow only.

usage: python examples/onnx_inference.py MODEL IMAGE OUTPUT   (OUTPUT: a new file)
example: python examples/onnx_inference.py model.onnx street.jpg labels.png
"""

import json
import os
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

if len(sys.argv) != 4:
    print(__doc__, file=sys.stderr)
    sys.exit(2)
model_file, image_file, output_file = sys.argv[1:]
if os.path.lexists(output_file):
    sys.exit(f"error: OUTPUT {output_file} already exists: give the name of a new file")
session = onnxruntime.InferenceSession(model_file, providers=["CPUExecutionProvider"])
about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
image = ImageOps.exif_transpose(Image.open(image_file))
if image.mode.startswith("I"):  # 16 bits
    black, white = about["black_point"], about["white_point"]
    values = np.clip(np.asarray(image, np.float64), black, white)
    image = Image.fromarray(((values - black) / (white - black) * 255 + 0.5).astype(np.uint8))
image = image.convert("RGB")
scale = min(about["min_size"] / min(image.size), about["max_size"] / max(image.size)) or 1
resized = image.resize([int(side * scale + 0.5) for side in image.size], Image.Resampling.BILINEAR)
pixels = np.asarray(resized)[:, :, :: 1 if about["image_format"] == "RGB" else -1]
(logits,) = session.run(None, {"image": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])})
ids, names = logits[0].argmax(axis=0), about["class_names"]
labels = Image.fromarray(ids.astype(np.uint8 if len(names) <= 256 else np.uint16))
if len(names) <= 256:
    labels.putpalette(np.array(about["colors"], np.uint8).tobytes())
# If the image was resized, borders of classes are coarser than in tools/predict.py, which enlarges
# the logits.
labels.resize(image.size, Image.Resampling.NEAREST).save(output_file)
print(", ".join(names[k] for k in np.unique(ids)))
