"""What a corpus is: typed rows and the JSONL manifests that hold them."""

from data_manifests.jsonl import Manifest, read_rows, write_rows
from data_manifests.rows import Caption, ManifestError, Moment, Video

__all__ = ["Caption", "Manifest", "ManifestError", "Moment", "Video", "read_rows", "write_rows"]
