"""What `reelcache` can be told to do, a function a command; `pipeline.cli` gives them their names."""
