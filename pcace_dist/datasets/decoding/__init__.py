"""What `datasets/images.py` decodes by: headers, orientation, the formats that Pillow reads, arrays of NumPy."""
