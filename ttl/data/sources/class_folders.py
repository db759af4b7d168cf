"""Images whose class is the folder that they lie in, in a folder or a zip file."""

from pathlib import Path, PurePosixPath

from PIL import Image

from ttl.data.sources.archive import SHOWN, open_zip
from ttl.data.sources.table import Row
from ttl.errors import DataError


def list_images(path: Path, images: str, classes: tuple[str, ...] | None) -> list[Row]:
    """Return the images under `images`/<class>/ of a folder or zip file, by name, as rows of a table.

    Their names start from `images`. Folders that `classes` does not list are left out where it lists any.
    Hidden files, and what zip programs of macOS add, are none of the images; any other file that is no image
    by its name is an error, and so is a class without images.
    """
    kinds = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    rows: list[Row] = []
    other = []
    for name in _names(path, PurePosixPath(images)):
        parts = PurePosixPath(name).parts
        if parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts):
            continue
        if len(parts) < 2 or (classes is not None and parts[0] not in classes):
            continue
        if PurePosixPath(name).suffix.lower() not in kinds:
            other.append(name)
            continue
        rows.append(_row(name, label=parts[0], number=len(rows)))
    if other:
        raise DataError(
            f"{path}: {len(other)} files in the classes' folders are no images: {', '.join(other[:SHOWN])}"
            f"{' …' if len(other) > SHOWN else ''}. Move them elsewhere"
        )
    found = {row.label for row in rows}
    if lacking := [name for name in classes or () if name not in found]:
        raise DataError(
            f"{path}: no images are in {images}/{lacking[0]}; the folders with images are: "
            f"{', '.join(sorted(found)) or 'none'}"
        )
    return rows


def _names(path: Path, images: PurePosixPath) -> list[str]:
    if path.is_dir():
        if not (path / images).is_dir():
            raise DataError(f"{path} has no folder {images}; set options.images")
        files = [p.relative_to(path / images).as_posix() for p in (path / images).rglob("*") if p.is_file()]
    else:
        with open_zip(path) as archive:
            inside = [PurePosixPath(entry.filename) for entry in archive.infolist() if not entry.is_dir()]
        files = [str(name.relative_to(images)) for name in inside if name.is_relative_to(images)]
    return sorted(files)


def _row(name: str, *, label: str, number: int) -> Row:
    return Row(
        line=number,
        image=name,
        label=label,
        patient_id=None,
        split=None,
        site=None,
        acquired_at=None,
        problem=None,
    )
