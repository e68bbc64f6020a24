# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy", "onnxruntime", "pillow"]
# ///
"""Tags a photograph with an exported model; needs numpy, Pillow and ONNX Runtime, neither PyTorch nor this package.

python examples/onnx_inference.py EXPORTED_FOLDER photo.jpg
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

folder, photograph = Path(sys.argv[1]), sys.argv[2]
labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))["labels"]
settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
image = ImageOps.exif_transpose(Image.open(photograph, formats=["JPEG", "PNG", "WEBP"])).convert("RGB")
short, crop = settings["size"]["shortest_edge"], settings["crop_size"]
size = [short * side // min(image.size) for side in image.size]
left, top = (size[0] - crop["width"]) // 2, (size[1] - crop["height"]) // 2
image = image.resize(size, settings["resample"]).crop((left, top, left + crop["width"], top + crop["height"]))
pixels = (np.asarray(image) / 255 - settings["image_mean"]) / settings["image_std"]  # (height, width, 3)
pixels = pixels.transpose(2, 0, 1)[None].astype(np.float32)  # (1, 3, height, width)
session = onnxruntime.InferenceSession(folder / "model.onnx")
(probabilities,) = session.run(["probabilities"], {"pixel_values": pixels})  # (1, labels)
for index in np.argsort(-probabilities[0])[:5]:
    print(f"{labels[index]:20s} {probabilities[0, index]:.4f}")
