from ttl.data.sources.base import Source
from dataclasses import dataclass
@dataclass(frozen=True)
class FolderOptions:
    pass
SOURCE = Source(title="", options=FolderOptions, open=None)
