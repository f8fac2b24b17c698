import numpy as np
import pytest
from PIL import Image

from data.on_demand import OnDemand
from utils.config import DataConfig
from utils.errors import UserError


def test_images_are_read_when_asked_for_and_unreadable_ones_left_out(tmp_path, capsys):
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        Image.new("RGB", (40, 50), (number, 0, 0)).save(path)
    paths[2].write_text("damaged")
    images = OnDemand(paths, DataConfig(size=(32, 48)))
    assert len(images) == 4
    assert images[np.array([3, 0, 2])][:, 0, 0, 0].tolist() == [3, 0]
    assert images[:1].shape == (1, 32, 48, 3)
    assert images[np.array([2])].shape == (0, 32, 48, 3)
    assert capsys.readouterr().err.count("2.png") == 1
    Image.new("RGB", (40, 50), (9, 0, 0)).save(paths[0])
    assert images[:1][0, 0, 0, 0] == 9  # nothing was kept


def test_a_folder_without_a_readable_image_is_named(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        path.write_text("damaged")
    with pytest.raises(UserError, match="none of the 2 images"):
        OnDemand(paths, DataConfig(size=32))[:2]
