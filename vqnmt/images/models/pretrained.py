"""Building image models, and their folders: `config.json` and `model.safetensors`."""

import dataclasses
import json
from pathlib import Path

from safetensors.torch import load_file, save

from vqnmt.checksums import CHECKSUMS, check_files, write_checksums
from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_path, atomic_write_text
from vqnmt.images.models.base import ImageModel
from vqnmt.images.models.blockwise_vqvae import BlockwiseVQVAE
from vqnmt.images.models.config import ImageModelConfig
from vqnmt.images.models.integers import IntegerVAE
from vqnmt.images.models.pixels import ImageTransformer
from vqnmt.images.models.vae import GaussianVAE
from vqnmt.images.models.vqvae import VQVAE
from vqnmt.plugins import plugins_of, require_plugins
from vqnmt.quantizers import Quantizer
from vqnmt.settings import from_mapping

# Most pixels of a side, which also limits what a model folder's config.json can ask for.
_LARGEST = 4096

MODEL_FILES = ("config.json", "model.safetensors")
# This number rises when saved weights no longer fit the code; folders of other formats are refused.
FORMAT = 1


def build_image_model(config: ImageModelConfig, image_size: int) -> ImageModel:
    """Build the model that `config.kind` names, for images of `image_size` squared.

    Raises:
        VqnmtError: The size does not fit the settings.
    """
    if not 2 <= image_size <= _LARGEST:
        raise VqnmtError(f"image_size is {image_size}; it must be from 2 to {_LARGEST:,}")
    kinds: dict[str, type[ImageModel]] = {
        "vqvae": VQVAE,
        "blockwise": BlockwiseVQVAE,
        "vae": GaussianVAE,
        "integers": IntegerVAE,
        "pixels": ImageTransformer,
    }
    return kinds[config.kind](config, image_size)


def save_image_model(model: ImageModel, folder: Path) -> None:
    """Write `model` to `folder`; each file is complete or absent.

    Raises:
        VqnmtError: The folder cannot be written.
    """
    (folder / CHECKSUMS).unlink(missing_ok=True)
    with atomic_path(folder / "model.safetensors") as temporary:
        temporary.write_bytes(save({k: v.contiguous() for k, v in model.state_dict().items()}))
    content = {
        "format": FORMAT,
        "image_size": model.image_size,
        "model": dataclasses.asdict(model.config),
        "plugins": plugins_of(part for part in model.modules() if isinstance(part, Quantizer)),
    }
    atomic_write_text(folder / "config.json", json.dumps(content, indent=2) + "\n")
    write_checksums(folder, MODEL_FILES)


def load_image_model(folder: Path | str) -> ImageModel:
    """Load what `save_image_model` wrote, in evaluation mode, on the CPU.

    Raises:
        VqnmtError: A file is missing, changed or damaged, or of another format.
    """
    check_files(Path(folder), MODEL_FILES)
    path = Path(folder) / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["format"]
        if found != FORMAT:
            raise VqnmtError(f"{path}: format is {found}, this version reads {FORMAT}: train anew")
        require_plugins(content.get("plugins", []))
        config = from_mapping(ImageModelConfig, content["model"], "model")
        model = build_image_model(config, content["image_size"])
        model.load_state_dict(load_file(path.with_name("model.safetensors")))
    except VqnmtError:
        raise
    except Exception as error:  # safetensors has errors of its own
        raise VqnmtError(
            f"{folder}: holds no image model that can be read ({error}): train it again"
        ) from error
    return model.eval()
