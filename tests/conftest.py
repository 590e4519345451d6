"""What all tests share."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded: who waits must not keep a core busy

# How long an example takes says nothing on a machine that others use, too.
settings.register_profile("reelcache", max_examples=40, deadline=None)
settings.load_profile("reelcache")
