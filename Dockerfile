# Reelcache on a GPU box (or without a GPU: leave --gpus away):
#
#   docker build -t reelcache .
#   docker run --rm --gpus all --ipc host -v /videos:/videos:ro -v /features:/data -v /weights:/weights \
#       reelcache extract /data/corpus.jsonl /data/corpus.zarr --experts resnet152,s3d,vggish
#
# The host needs NVIDIA's driver 580 or newer and a GPU of the Turing generation or newer: docs/installing.md.
#
# /data is the working folder and holds manifests and stores; /weights keeps what was fetched. Both must be
# writable by user 1000, or by the one that --user names. Stores and videos may be s3:// URLs; pass AWS_ACCESS_KEY_ID and its like by -e.
#
# The decoders av and decord come with FFmpeg's libraries in their own packages. torchcodec is not in the image: it needs
# the FFmpeg of the system, which is not there either.
#
# `docker stop` sends SIGTERM, at which the shards in progress are finished and no more begun. Give it the time:
# `docker stop -t 600`; after the 10 s of the default they are killed, and done again by the next run.
#
# As a worker of a Dask cluster, with the same mounts; docs/scaling.md tells more, also of Kubernetes:
#
#   docker run --rm --gpus device=0 --network host -v ... --entrypoint /opt/venv/bin/dask \
#       reelcache worker tcp://10.0.0.1:8786 --nthreads 2 --memory-limit 0 --no-dashboard
FROM nvidia/cuda:13.0.2-base-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# Packages first: they change seldom. Every one is pinned and hashed.
WORKDIR /opt/reelcache
COPY requirements.lock ./
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY data_manifests data_manifests
COPY extractors extractors
COPY feature_store feature_store
COPY pipeline pipeline
COPY train train
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

# Ubuntu's image brings a user 1000. torch asks for the user's name, which `docker run --user 1234` has none of: USER is it.
RUN mkdir -p /data /weights && chown 1000:1000 /data /weights
USER 1000
ENV REELCACHE_CACHE=/weights HF_HOME=/weights/huggingface HOME=/tmp USER=reelcache PYTHONUNBUFFERED=1
# What the NVIDIA runtime mounts of the driver: "video" adds NVDEC to what the base image names.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
VOLUME ["/data", "/weights"]
WORKDIR /data
ENTRYPOINT ["/opt/venv/bin/reelcache"]
CMD ["--help"]
