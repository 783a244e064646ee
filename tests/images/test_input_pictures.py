"""What a viewer shows of a picture is what trains; what is not read is named or counted."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from vqnmt.errors import VqnmtError
from vqnmt.images import data as images
from vqnmt.images.data import ImageDataConfig, load_images

SIZE = 8


def noise(seed=0):
    """Pixels (8, 8, 3), all different."""
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def write(folder, *seeds):
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        Image.fromarray(noise(seed)).save(folder / f"{seed:03}.png")
    return folder


@pytest.fixture
def config(tmp_path):
    """Settings of train/, valid/ and test/; the last two have one picture each."""
    folders = {"train": tmp_path / "train", "valid": tmp_path / "valid", "test": tmp_path / "test"}
    folders["train"].mkdir()
    write(folders["valid"], 1001)
    write(folders["test"], 1002)

    def make(**further):
        values = {part: str(folder) for part, folder in folders.items()}
        return ImageDataConfig(**{"name": "folder", "size": SIZE, **values, **further})

    return make


def read(config, tmp_path, name, image, **options):
    """The pixels (8, 8, 3) that `image` trains as, saved as `name`."""
    image.save(tmp_path / "train" / name, **options)
    (found,) = load_images(config()).train
    return found.transpose(1, 2, 0)


def check(found, expected, tolerance=0):
    expected = np.broadcast_to(expected, found.shape).astype(int)
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_grey_of_16_bits_keeps_its_shades(config, tmp_path):
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    found = read(config, tmp_path, "x.png", Image.fromarray(grey))
    check(found, np.round(grey / 257)[..., None])
    assert len(np.unique(found)) == 64


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_exif_says(config, tmp_path, orientation, name):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, :, 0] = pixels[:, 0, 1] = 255  # as it is to be seen: red on top, green on the left
    undo = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x),
        7: lambda x: np.rot90(x[::-1]),
        8: lambda x: np.rot90(x, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name == "x.webp" else {"quality": 100, "subsampling": 0}
    stored = Image.fromarray(np.ascontiguousarray(undo(pixels)))
    found = read(config, tmp_path, name, stored, exif=exif, **options)
    assert (abs(found.astype(int) - pixels) < 128).all()


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_damaged_exif_turns_nothing(config, tmp_path, exif):
    found = read(config, tmp_path, "x.jpg", Image.new("RGB", (8, 8), (10, 200, 30)), exif=exif)
    check(found, (10, 200, 30), 3)


@pytest.mark.parametrize("name", ["x.png", "x.webp", "X.BMP"])
def test_every_kind_of_file_has_its_pixels(config, tmp_path, name):
    options = {"lossless": True} if name == "x.webp" else {}
    found = read(config, tmp_path, name, Image.fromarray(noise()), **options)
    check(found, noise())


def test_what_is_transparent_is_white_whatever_colour_it_hides(config, tmp_path):
    pixels = np.concatenate([noise(), np.zeros((8, 8, 1), np.uint8)], axis=2)
    pixels[0, :, 3], pixels[1, :, 3] = 255, 128
    found = read(config, tmp_path, "x.png", Image.fromarray(pixels))
    check(found[2:], 255)
    check(found[0], pixels[0, :, :3])
    check(found[1], np.round((128 * pixels[1, :, :3].astype(int) + 127 * 255) / 255), 1)


def test_transparency_of_grey_and_of_palettes(config, tmp_path):
    grey = np.full((8, 8, 2), 60, np.uint8)
    grey[..., 1] = np.arange(8) * 36
    found = read(config, tmp_path, "x.png", Image.fromarray(grey, "LA"))
    check(found, np.round(255 - 195 * (grey[..., 1:] / 255)), 1)
    palette = Image.fromarray((np.arange(64).reshape(8, 8) % 2).astype(np.uint8), "P")
    palette.putpalette([250, 0, 0, 0, 0, 250])
    found = read(config, tmp_path, "x.png", palette)
    check(found[:, 0::2], (250, 0, 0))
    found = read(config, tmp_path, "x.png", palette, transparency=0)
    check(found[:, 0::2], 255)
    check(found[:, 1::2], (0, 0, 250))


def test_colours_of_print_and_of_two_values(config, tmp_path):
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    check(read(config, tmp_path, "x.jpg", red, quality=100), (255, 0, 0), 4)
    (tmp_path / "train" / "x.jpg").unlink()
    check(read(config, tmp_path, "x.png", Image.new("1", (8, 8), 1)), 255)


@pytest.mark.parametrize("name", ["x.png", "x.webp"])
def test_the_first_frame_of_an_animation(config, tmp_path, name):
    frames = [Image.fromarray(noise(seed)) for seed in range(3)]
    options = {"save_all": True, "append_images": frames[1:], "lossless": True}
    if name == "x.png":
        del options["lossless"]
    check(read(config, tmp_path, name, frames[0], **options), noise(0))


def test_what_is_passed_over_is_counted_by_kind(config, tmp_path, capsys):
    train = write(tmp_path / "train", 1, 2)
    for name in ("a.gif", "b.tif", "c.TIF"):
        Image.fromarray(noise()).save(train / name)
    (train / "notes").mkdir()
    (train / "notes" / "README").write_text("x")
    (train / "folder.png").mkdir()
    assert len(load_images(config()).train) == 2
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "train images: passed over 1 .gif, 2 .tif, 1 without ending "
        "(read are .png, .jpg, .jpeg, .webp, .bmp)"
    ]
    for path in train.glob("*.png"):
        if path.is_file():
            path.unlink()
    with pytest.raises(VqnmtError, match=r"train: holds no \.png.* \(but 1 \.gif, 2 \.tif, 1"):
        load_images(config())


def test_a_very_large_picture_is_refused_in_a_sentence(config, tmp_path):
    path = tmp_path / "train" / "x.png"
    Image.new("1", (20_000, 10_000)).save(path)
    with pytest.raises(VqnmtError, match=r"x\.png: has over 178,956,970 pixels.*smaller") as caught:
        load_images(config(resize=True))
    assert "\n" not in str(caught.value)


def test_a_large_picture_warns_nobody(config, tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (15, 10), 7).save(tmp_path / "train" / "x.png")
    assert (load_images(config(resize=True)).train == 7).all()
    assert not recwarn.list


def damaged_files():
    """Pictures of every kind, cut, with bytes changed, and with other bytes altogether."""
    random = np.random.default_rng(0)
    large = random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for kind in ("png", "jpeg", "webp", "bmp"):
        buffer = io.BytesIO()
        Image.fromarray(large).save(buffer, kind)
        content = buffer.getvalue()
        for cut in (0, 1, 10, 30, len(content) // 2, len(content) - 60):
            yield kind, content[:cut], True
        for _ in range(60):
            changed = bytearray(content)
            for place in random.integers(0, min(len(content), 200), 3):
                changed[place] = random.integers(256)
            yield kind, bytes(changed), False
        yield kind, random.bytes(500), True


def test_a_damaged_picture_is_named_whatever_the_damage(config, tmp_path):
    for kind, content, certain in damaged_files():
        path = tmp_path / "train" / f"x.{kind}"
        path.write_bytes(content)
        try:
            load_images(config(resize=True))
            assert not certain, (kind, len(content))
        except VqnmtError as error:
            assert str(error).startswith(f"{path}: "), error
            assert "\n" not in str(error)
        path.unlink()


def test_what_is_no_file_is_named(config, tmp_path):
    (tmp_path / "train" / "x.png").symlink_to("nowhere")
    with pytest.raises(VqnmtError, match=r"x\.png: cannot be read as an image \(no regular file\)"):
        load_images(config())
    (tmp_path / "train" / "x.png").unlink()
    os.mkfifo(tmp_path / "train" / "x.png")  # reading it would wait for a writer
    with pytest.raises(VqnmtError, match=r"x\.png: cannot be read"):
        load_images(config())


@pytest.mark.parametrize("size", [-1, 1, 4097, 1_000_000, 10**20])
def test_absurd_sizes_are_refused_by_the_settings(size):
    with pytest.raises(VqnmtError, match=r"data\.size is .*; it must be from 2 to 4,096"):
        ImageDataConfig(name="folder", train="x", size=size)


def test_more_images_than_memory_are_refused_before_any_is_taken(config, tmp_path, monkeypatch):
    write(tmp_path / "train", 1, 2, 3)
    monkeypatch.setattr(images, "_memory", lambda: 3 * 3 * SIZE**2 - 1)
    monkeypatch.setattr(images.np, "empty", lambda *_: pytest.fail("memory was asked for"))
    with pytest.raises(VqnmtError, match=r"train: 3 images of 8x8 pixels take .* lower data\.size"):
        load_images(config())


# --- the same pictures in two parts ------------------------------------------------------------


def test_pictures_of_two_parts_are_left_out_of_the_training(config, tmp_path, capsys):
    """The bytes of the files differ, the pixels do not."""
    write(tmp_path / "train", *range(10))
    write(tmp_path / "valid", 1, 2)
    for seed in (2, 3, 4):
        Image.fromarray(noise(seed)).save(tmp_path / "test" / f"other{seed}.bmp")
    data = load_images(config())
    marks = [{image.tobytes() for image in part} for part in (data.train, data.valid, data.test)]
    assert not (marks[0] & marks[1] or marks[0] & marks[2] or marks[1] & marks[2])
    assert [len(part) for part in (data.train, data.valid, data.test)] == [6, 2, 4]
    assert capsys.readouterr().out.splitlines() == [
        "valid images: 1 left out, because test has pictures of equal pixels",
        "train images: 3 left out, because test has pictures of equal pixels",
        "train images: 1 left out, because valid has pictures of equal pixels",
    ]


def test_a_test_folder_within_the_training_folder(config, tmp_path):
    write(tmp_path / "train", *range(60))
    write(tmp_path / "train" / "test", 60, 61, 62)
    data = load_images(config(valid=None, test=str(tmp_path / "train" / "test")))
    assert len(data.test) == 3 and len(data.train) + len(data.valid) == 60 and len(data.valid) > 0
    test = {image.tobytes() for image in data.test}
    assert not any(x.tobytes() in test for x in (*data.train, *data.valid))


def test_the_training_folder_is_no_test_folder(config, tmp_path):
    train = write(tmp_path / "train", *range(60))
    (tmp_path / "link").symlink_to(train)
    for test in (train, tmp_path / "link", train / ".." / "train"):
        with pytest.raises(VqnmtError, match=r"is the folder of both data\.train and data\.test"):
            load_images(config(test=str(test)))
    copy = write(tmp_path / "copy", *range(60))
    with pytest.raises(VqnmtError, match=r"no image is left for train, because the 60 .* in test"):
        load_images(config(test=str(copy)))
