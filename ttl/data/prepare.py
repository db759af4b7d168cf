"""From an entry of `params.yaml` to a packed dataset."""

from pathlib import Path

from ttl.cache import cache_folder
from ttl.data.dataset import PackedDataset
from ttl.data.pack import pack
from ttl.data.sources import SOURCES, Request
from ttl.data.spec import DatasetSpec
from ttl.errors import TTLError


def prepare(name: str, spec: DatasetSpec, out: Path, *, cache: Path | None = None) -> PackedDataset:
    """Read the source that `spec` names and write it to the folder `out` as dataset `name`.

    `cache` holds downloaded files; without it, `TTL_CACHE` or `~/.cache/ttl` does. Raises `DataError` naming
    the file or row that cannot be used, and then leaves `out` as it was.
    """
    request = Request(
        name=name,
        input=spec.input,
        size=spec.size,
        channels=spec.channels,
        seed=spec.seed,
        cache=cache or cache_folder("data"),
        options=spec.options,
    )
    try:
        contents = SOURCES[spec.source].open(request)
        return pack(name, contents, out, fractions=spec.split.to_dict(), seed=spec.seed)
    except TTLError as error:
        # The message, not the type, says what is wrong; whoever reads it must know which dataset it was.
        error.args = (f"dataset {name}: {error}",)
        raise
