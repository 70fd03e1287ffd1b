"""Label images with an exported classifier. Needs onnxruntime, Pillow and numpy, nothing else.

anyclass export --run run --onnx model.onnx
python onnx_predict.py model.onnx photo.jpg another.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
for file in sys.argv[2:]:
    try:
        image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    except OSError as error:  # damaged, or of a kind that Pillow does not read
        print(error, file=sys.stderr)
        continue
    probabilities = session.run(["probabilities"], {"images": np.asarray(image)[None]})[0][0]
    best = int(probabilities.argmax())
    print(f"{file}\t{classes[best]}\t{probabilities[best]:.3f}")
