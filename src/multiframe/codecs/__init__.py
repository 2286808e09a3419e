"""One module a codec family; each is found by its entry point, exactly as a stranger's codec is.

A codec knows its codestream and `PixelSpec`; it must not know files, Items, offsets or frame indices.
``_headers.py`` reads what a codestream says of itself, ``_pixels.py`` holds what all families do with samples.
Nothing here imports a codec library before the first frame is decoded.
"""
