"""The sources of images. A new one is a module here and a line in `SOURCES`."""

from ttl.data.sources import bimcv, chexpert, folder, ham10000, medmnist, midog, phantom, radfusion
from ttl.data.sources.base import Contents, Request, Sample, Source

__all__ = ["SOURCES", "Contents", "Request", "Sample", "Source"]

SOURCES: dict[str, Source] = {
    "phantom": phantom.SOURCE,
    "medmnist": medmnist.SOURCE,
    "folder": folder.SOURCE,
    "ham10000": ham10000.SOURCE,
    "chexpert": chexpert.SOURCE,
    "bimcv": bimcv.SOURCE,
    "midog": midog.SOURCE,
    "radfusion": radfusion.SOURCE,
}
