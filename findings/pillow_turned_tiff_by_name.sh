#!/usr/bin/env bash
# Pillow 13.0.0: an uncompressed TIFF of orientation 5 to 8 has scrambled pixels if it is opened by its name.
#
# Input: a grey image of 3 rows and 4 columns with the values 0 … 11, saved by Pillow as TIFF with the EXIF orientation 6 (turn it
# by 90 degrees to the right). The same file is opened by its name, and as a file object.
# Expected: both give the turned image, 4 rows of 3.
# Seen: by its name, 3 rows of 4, in which the rows of the file are read with a length of 3 and then turned. As a file object, or
# compressed, the image is right. Nothing is raised or warned. (Opened by name, the file is mapped into memory with `size`, which
# for these orientations is that of the turned image.)
# What kdiff does: `kdiff.data.decoding.tried` opens images as file objects (tests/data/test_decoding.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0 numpy
cat > "$folder/case.py" <<'PYTHON'
import sys

import numpy as np
from PIL import Image

path = sys.argv[1] + "/turned.tif"
exif = Image.Exif()
exif[0x0112] = 6
Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(path, exif=exif)
with Image.open(path) as by_name:
    print("by name", np.asarray(by_name).tolist())
with open(path, "rb") as file, Image.open(file) as as_file:
    print("as file", np.asarray(as_file).tolist())
PYTHON
seen=$("$folder/venv/bin/python" "$folder/case.py" "$folder")
echo "$seen"
test "$seen" = "by name [[9, 6, 3, 0], [10, 7, 4, 1], [11, 8, 5, 2]]
as file [[8, 4, 0], [9, 5, 1], [10, 6, 2], [11, 7, 3]]"
