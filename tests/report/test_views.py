import numpy as np
from PIL import Image

from sar.data.grey_range import GreyRange
from sar.report import views


def test_images_of_16_bits_are_shown_as_the_model_sees_them(tmp_path, monkeypatch):
    path = str(tmp_path / "a.png")
    Image.fromarray(np.array([[0, 2048, 4095]], np.uint16)).save(path)
    records = [{"file_name": path, "sem_seg_file_name": path}]
    monkeypatch.setattr(views, "load_dataset", lambda name: records)
    images = views.Images("any", 1, GreyRange(0, 4095))
    assert images.picture(path)[0, :, 0].tolist() == [0, 128, 255]
