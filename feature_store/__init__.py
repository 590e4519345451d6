"""Where features live: a Zarr store that is written shard by shard and read through memory maps."""

from feature_store.exporting import ExportSummary, export_features
from feature_store.foreign import ImportUsageError
from feature_store.importing import ImportSummary, import_features
from feature_store.layout import NotInStore, ShardPlan, ShardRecord, StoreError, VideoStatus
from feature_store.reader import ExpertInfo, ExpertReader, Features, FeatureStore
from feature_store.survey import diff_stores, inspect_video, summarize
from feature_store.verify import verify
from feature_store.writer import ExpertWriter, ShardWriter, StoreWriter

__all__ = [
    "ExpertInfo",
    "ExpertReader",
    "ExpertWriter",
    "ExportSummary",
    "FeatureStore",
    "Features",
    "ImportSummary",
    "ImportUsageError",
    "NotInStore",
    "ShardPlan",
    "ShardRecord",
    "ShardWriter",
    "StoreError",
    "StoreWriter",
    "VideoStatus",
    "diff_stores",
    "export_features",
    "import_features",
    "inspect_video",
    "summarize",
    "verify",
]
