"""A whole slide image of several levels, tiled, with a label and an overview: what pathology's clients open."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import Dataset

from multiframe.codec import PixelSpec, encoder_for
from multiframe.syntaxes import EXPLICIT_LE, syntax_of
from multiframe.testing import JPEG_BASELINE, part10

TILE = 128
SIZE = (450, 610)  # rows and columns of level 0; no multiple of the tile
_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def picture(rows: int, columns: int) -> Any:
    """Tissue of a kind: smooth, coloured, nowhere the same."""
    y, x = np.mgrid[0:rows, 0:columns] / max(SIZE)
    waves = [np.sin(9 * x + 5 * y * k) * np.cos(7 * y - k) for k in range(3)]
    return (128 + 100 * np.stack(waves, axis=-1)).astype("u1")


def slide(folder: Path, *, syntax: str = JPEG_BASELINE, levels: int = 3, sparse: bool = False) -> tuple[str, str]:
    """Write one, and give the UIDs of its study and series.

    `sparse`: where each tile lies is said tile by tile, and they come in another order.
    """
    base = f"2.25.{int(syntax.replace('.', '')) * 2 + sparse}"
    study, series = base + "1", base + "2"
    folder.mkdir(parents=True)
    for kind, level in [*(("VOLUME", k) for k in range(levels)), ("LABEL", 0), ("OVERVIEW", 0)]:
        rows, columns = (s >> level for s in SIZE) if kind == "VOLUME" else (96, 128)
        whole = picture(rows, columns)
        tile = TILE if kind == "VOLUME" else max(rows, columns)
        down, across = -(-rows // tile), -(-columns // tile)
        padded = np.pad(whole, ((0, down * tile - rows), (0, across * tile - columns), (0, 0)), mode="edge")
        if kind != "VOLUME":
            padded = whole
        cells = [(i, k) for i in range(down) for k in range(across)]
        if sparse:
            cells.reverse()
        tiles = [padded[i * tile : (i + 1) * tile, k * tile : (k + 1) * tile] for i, k in cells]
        head = _head(kind, rows, columns, level)
        head.StudyInstanceUID, head.SeriesInstanceUID = study, series
        head.SOPInstanceUID = f"{series}.{len(kind)}.{level + 1}"
        head.InstanceNumber = level + 1
        if sparse and kind == "VOLUME":
            head.DimensionOrganizationType = "TILED_SPARSE"
            head.PerFrameFunctionalGroupsSequence = [_place(i * tile, k * tile) for i, k in cells]
        photometric = {JPEG_BASELINE: "YBR_FULL_422"}.get(syntax, "RGB")
        data = part10(
            [_encoded(t, syntax) for t in tiles],
            rows=tiles[0].shape[0],
            columns=tiles[0].shape[1],
            syntax=syntax,
            samples=3,
            photometric=photometric,
            extra=head,
        )
        (folder / f"{kind.lower()}{level}.dcm").write_bytes(data)
    return study, series


def _encoded(tile: Any, syntax: str) -> bytes:
    if syntax == JPEG_BASELINE:
        file = io.BytesIO()
        Image.fromarray(tile).save(file, "JPEG", quality=85, subsampling="4:2:2")
        return file.getvalue()
    tile = np.ascontiguousarray(tile)
    if syntax == EXPLICIT_LE:
        return tile.tobytes()
    spec = PixelSpec(tile.shape[0], tile.shape[1], 3, "RGB")
    return bytes(encoder_for(syntax_of(syntax)).encode(tile, spec, syntax_of(syntax)))


def _head(kind: str, rows: int, columns: int, level: int) -> Dataset:
    head, path, origin, measures, shared, kinds = (Dataset() for _ in range(6))
    spacing = 0.0005 * (1 << level)
    head.SOPClassUID = _SLIDE
    head.Modality = "SM"
    head.ImageType = ["DERIVED" if level else "ORIGINAL", "PRIMARY", kind, "RESAMPLED" if level else "NONE"]
    head.AcquisitionDateTime = "20260101120000"
    head.ContainerIdentifier = "slide"
    head.DimensionOrganizationType = "TILED_FULL"
    head.FrameOfReferenceUID = "2.25.1"
    head.TotalPixelMatrixColumns, head.TotalPixelMatrixRows = columns, rows
    head.TotalPixelMatrixFocalPlanes = 1
    head.NumberOfOpticalPaths = 1
    head.ImagedVolumeWidth, head.ImagedVolumeHeight, head.ImagedVolumeDepth = columns * spacing, rows * spacing, 0.001
    head.ImageOrientationSlide = [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    head.BurnedInAnnotation = "NO"
    head.FocusMethod = "AUTO"
    head.ExtendedDepthOfField = "NO"
    head.SpecimenLabelInImage = "YES" if kind == "LABEL" else "NO"
    head.LossyImageCompression = "00"
    head.VolumetricProperties = "VOLUME"
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0.0
    head.TotalPixelMatrixOriginSequence = [origin]
    path.OpticalPathIdentifier = "1"
    head.OpticalPathSequence = [path]
    measures.PixelSpacing, measures.SliceThickness = [spacing, spacing], 0.001
    kinds.FrameType = head.ImageType
    shared.PixelMeasuresSequence = [measures]
    shared.WholeSlideMicroscopyImageFrameTypeSequence = [kinds]
    head.SharedFunctionalGroupsSequence = [shared]
    return head


def _place(row: int, column: int) -> Dataset:
    group, place, path = Dataset(), Dataset(), Dataset()
    place.RowPositionInTotalImagePixelMatrix, place.ColumnPositionInTotalImagePixelMatrix = row + 1, column + 1
    place.XOffsetInSlideCoordinateSystem = place.YOffsetInSlideCoordinateSystem = 0.0
    place.ZOffsetInSlideCoordinateSystem = 0.0
    path.OpticalPathIdentifier = "1"
    group.PlanePositionSlideSequence = [place]
    group.OpticalPathIdentificationSequence = [path]
    return group
