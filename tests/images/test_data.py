"""The user's own images: reading, splits, errors; batches."""

import numpy as np
import pytest
from PIL import Image

from vqnmt.errors import VqnmtError
from vqnmt.images.data import ImageBatches, ImageDataConfig, batches_in_order, load_images


def write_images(folder, count, size=8, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for i in range(count):
        pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")


def config(folder, **further):
    return ImageDataConfig(**{"name": "folder", "train": str(folder), "size": 8, **further})


def test_a_folder_is_split_by_content(tmp_path):
    write_images(tmp_path / "a", 100)
    data = load_images(config(tmp_path, valid_share=0.2, test_share=0.2))
    counts = [len(part) for part in (data.train, data.valid, data.test)]
    assert sum(counts) == 100 and all(8 < count < 80 for count in counts)
    # Other names and other files beside them move nothing.
    for path in (tmp_path / "a").iterdir():
        path.rename(path.with_name(f"z{path.name}"))
    write_images(tmp_path / "b" / "c", 20, seed=1)
    again = load_images(config(tmp_path, valid_share=0.2, test_share=0.2))
    test = {image.tobytes() for image in again.test}
    assert {image.tobytes() for image in data.test} <= test
    assert not {image.tobytes() for image in again.train} & test


def test_given_splits_are_taken_as_they_are(tmp_path):
    for part, count in (("train", 5), ("valid", 2), ("test", 3)):
        write_images(tmp_path / part, count, seed=count)
    parts = {part: str(tmp_path / part) for part in ("valid", "test")}
    data = load_images(config(tmp_path / "train", **parts))
    assert data.facts() | {"digest": ""} == {
        "name": "folder",
        "digest": "",
        "train": 5,
        "valid": 2,
        "test": 3,
    }
    first = np.asarray(Image.open(tmp_path / "train" / "000.png"))
    np.testing.assert_array_equal(data.train[0].transpose(1, 2, 0), first)


def test_the_digest_tells_other_images(tmp_path):
    for part, count in (("train", 5), ("other", 6), ("valid", 2), ("test", 3)):
        write_images(tmp_path / part, count, seed=count)
    parts = {part: str(tmp_path / part) for part in ("valid", "test")}
    digests = {load_images(config(tmp_path / name, **parts)).digest for name in ("train", "other")}
    assert len(digests) == 2


def test_grey_and_large_images_are_converted(tmp_path):
    write_images(tmp_path / "valid", 1)
    write_images(tmp_path / "test", 1, seed=1)
    (tmp_path / "train").mkdir()
    Image.new("L", (20, 10), 77).save(tmp_path / "train" / "grey.jpeg")
    parts = {part: str(tmp_path / part) for part in ("valid", "test")}
    with pytest.raises(VqnmtError, match=r"grey\.jpeg: has 20x10 pixels instead of 8x8"):
        load_images(config(tmp_path / "train", **parts))
    data = load_images(config(tmp_path / "train", resize=True, **parts))
    assert (data.train == 77).all() and data.train.shape == (1, 3, 8, 8)


def test_a_damaged_file_is_named(tmp_path):
    write_images(tmp_path, 3)
    content = (tmp_path / "001.png").read_bytes()
    (tmp_path / "001.png").write_bytes(content[:60])
    with pytest.raises(VqnmtError, match=r"001\.png: cannot be read as an image"):
        load_images(config(tmp_path))


@pytest.mark.parametrize(
    ("part", "message"),
    [("train", r"none: no such folder of images: correct data\.train"), ("valid", "none: no such")],
)
def test_a_missing_folder_is_named(tmp_path, part, message):
    write_images(tmp_path / "train", 3)
    with pytest.raises(VqnmtError, match=message):
        load_images(config(tmp_path / "train", **{part: str(tmp_path / "none")}))


def test_a_missing_split_is_named(tmp_path):
    write_images(tmp_path, 1)
    with pytest.raises(VqnmtError, match=r"data\.\w+ is not set, and none of the 1 images"):
        load_images(config(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(VqnmtError, match=r"empty: holds no \.png, .*\.bmp file \(but none "):
        load_images(config(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "mnist"}, "data.name is 'mnist'"),
        ({"size": 64}, "data.size is 64"),
        ({"train": "x"}, "data.train is set: use data=folder"),
        ({"name": "folder"}, "data.train is empty"),
        ({"valid_share": 0.7}, "data.valid_share is 0.7"),
        ({"max_train": 0}, "data.max_train is 0"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(VqnmtError, match=message):
        ImageDataConfig(**settings)


def test_batches_cover_an_epoch_and_mirror_half():
    images = np.arange(10 * 3 * 2 * 2, dtype=np.uint8).reshape(10, 3, 2, 2)
    batches = ImageBatches(images, 3, seed=1, flip=True)
    plan = batches.plan(0)
    assert [len(indices) for indices in plan] == [3, 3, 3]
    assert all((a == b).all() for a, b in zip(plan, batches.plan(0), strict=True))
    assert any((a != b).any() for a, b in zip(plan, batches.plan(1), strict=True))
    rows = np.concatenate(plan)
    assert len(set(rows % 10)) == 9 and (rows >= 10).any() and (rows < 10).any()
    (found,) = batches.collate(np.array([4, 14]))
    np.testing.assert_array_equal(found[0], images[4])
    np.testing.assert_array_equal(found[1], images[4][:, :, ::-1])
    assert (np.concatenate(ImageBatches(images, 3, 1, flip=False).plan(0)) < 10).all()
    assert len(ImageBatches(images, 64, 1, flip=False).plan(0)) == 1


def test_batches_in_order_are_all_images():
    images = np.zeros((5, 3, 2, 2), np.uint8)
    assert [len(batch) for batch in batches_in_order(images[..., ::-1], 2)] == [2, 2, 1]
