import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from data.corruption import CELL_SETS, KINDS, VISIBLE, cell_sets, corrupt, perlin_noise
from data.textures import Textures
from models import build_model
from utils.config import CorruptionConfig, load_config
from utils.errors import UserError


def smooth_images(count=2, size=(96, 64)):
    y, x = torch.meshgrid(*(torch.linspace(0, 1, side) for side in size), indexing="ij")
    image = torch.stack([0.3 + 0.4 * y, 0.4 + 0.2 * x, 0.6 - 0.3 * y])
    return image.repeat(count, 1, 1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_corruption_is_marked_where_it_is_seen_and_nowhere_else(kind):
    torch.manual_seed(0)
    images = smooth_images()
    shares = []
    for _ in range(30):
        corrupted, mask = KINDS[kind](images[0], Textures(images))
        assert corrupted.shape == images[0].shape
        assert (mask.shape, mask.dtype) == ((1, 96, 64), torch.bool)
        assert corrupted.min() >= 0
        assert corrupted.max() <= 1
        change = (corrupted - images[0]).abs().amax(0, keepdim=True)
        assert (change[~mask] == 0).all()
        if mask.any():
            assert change[mask].mean() > VISIBLE / 2
        shares.append(mask.float().mean().item())
    assert sum(share > 0 for share in shares) >= 20
    assert len(set(shares)) > 5 or kind == "mask"  # sizes differ


def test_cells_are_dealt_into_disjoint_sets_that_cover_the_image():
    for cell in (2, 7, 16):
        sets = cell_sets(50, 33, cell)
        assert sets.shape == (CELL_SETS, 1, 50, 33)
        assert (sets.sum(dim=0) == 1).all()
        assert sets[0, 0, 0, 0] == sets[0, 0, cell - 1, cell - 1]
    assert not torch.equal(cell_sets(64, 64, 8), cell_sets(64, 64, 8))
    same = [cell_sets(64, 64, 8, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*same)


def test_perlin_noise_is_zero_on_its_lattice_and_smooth_between():
    torch.manual_seed(0)
    noise = perlin_noise(64, 96, 4, 3)
    assert noise.shape == (64, 96)
    assert 0.2 < noise.abs().max() <= 1.01
    assert noise.diff(dim=0).abs().max() < 0.2
    # Pixels lie half a pixel beside the lattice points: the noise there is within a step of 0.
    corners = noise[15::16, 31::32]
    assert corners.abs().max() < 0.1


def test_weights_decide_what_is_drawn():
    torch.manual_seed(0)
    images = smooth_images(40, (32, 32))
    corrupted, masks = corrupt(images, load_config(overrides={"corruption": "none"}).corruption)
    assert torch.equal(corrupted, images)
    assert not masks.any()
    config = load_config(overrides={"corruption": "stain+mask"}).corruption
    assert (config.clean, config.mask, config.stain, config.perlin, config.crack) == (1, 1, 1, 0, 0)
    masks = corrupt(images, CorruptionConfig(clean=0, mask=1, stain=0, perlin=0, crack=0,
                                             cut_paste=0))[1]  # fmt: skip
    assert masks.flatten(1).any(dim=1).all()
    half = corrupt(images, CorruptionConfig(clean=1, mask=1, stain=0, perlin=0, crack=0,
                                            cut_paste=0))[1]  # fmt: skip
    assert 8 < half.flatten(1).any(dim=1).sum() < 32
    with pytest.raises(UserError, match=r"corruption\.stian"):
        load_config(overrides={"corruption": "stian"})


def test_more_corruption_of_the_same_image_is_all_marked():
    images = smooth_images(40)
    marked = []
    for more in (0, 6):
        torch.manual_seed(0)
        config = load_config(overrides={"corruption": "crack+stain"}).corruption
        corrupted, masks = corrupt(images, config.model_copy(update={"more": more}))
        changed = (corrupted != images).any(dim=1, keepdim=True)
        assert (changed <= masks).all()
        assert not masks.flatten(1).any(dim=1).all()  # some are left clean all the same
        marked.append(masks.float().mean())
    assert marked[1] > 2 * marked[0]


def test_equal_seeds_corrupt_alike_and_others_do_not():
    images = smooth_images(6)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(corrupt(images, CorruptionConfig())[0])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_grey_images_stay_grey():
    torch.manual_seed(0)
    images = smooth_images(30).mean(dim=1, keepdim=True).repeat(1, 3, 1, 1)
    corrupted, masks = corrupt(images, CorruptionConfig(clean=0))
    assert masks.any()
    assert torch.allclose(corrupted[:, 0], corrupted[:, 2], atol=1e-6)


def test_textures_come_from_a_folder_if_one_is_named(tmp_path):
    Image.new("RGB", (40, 30), (255, 0, 0)).save(tmp_path / "red.png")
    texture = Textures(smooth_images(), str(tmp_path)).draw(smooth_images()[0])
    assert texture.shape == (3, 96, 64)
    assert all(channel.std() < 1e-6 for channel in texture)  # one colour, however it is recoloured
    (tmp_path / "red.png").unlink()
    with pytest.raises(UserError, match=r"corruption\.textures"):
        Textures(smooth_images(), str(tmp_path))


@pytest.mark.parametrize("model", ["unet", "draem"])
def test_the_target_is_always_the_clean_image(model):
    overrides = {"model": model, "unet.width": 4, "unet.depth": 2, "data.size": 64}
    detector = build_model(load_config(overrides=overrides | {"corruption.clean": 0}))
    images = smooth_images(4, (64, 64))
    sample = detector.prepare(images)
    at_full_size, at_half = sample[: len(sample) // 2], sample[len(sample) // 2 :]
    for (corrupted, clean, *mask), expected in (
        (at_full_size, images),
        (at_half, F.avg_pool2d(images, 2)),
    ):
        assert torch.equal(clean, expected)
        assert not torch.equal(corrupted, clean)
        if mask:
            assert ((corrupted != clean).any(dim=1, keepdim=True) <= mask[0]).all()
