"""Settings of the image models: kind and size."""

from dataclasses import dataclass, field

from vqnmt.errors import VqnmtError
from vqnmt.quantizers import QuantizerConfig, SoftEMConfig

KINDS = ("vqvae", "vae", "integers", "pixels")
PRIORS = ("uniform", "pixelcnn", "transformer")
# Whoever asks for more has mistyped, and would wait for hours or until memory runs out.
_WIDEST, _DEEPEST = 8192, 1000


@dataclass(kw_only=True, slots=True)
class AutoencoderConfig:
    """The convolutional encoder and decoder between pixels and a grid of latents."""

    width: int = 48
    """Channels of the feature maps on the grid of latents."""
    blocks: int = 2
    """Residual blocks of the encoder, and as many of the decoder (of each of its four passes,
    `integers`), on the grid of latents."""
    halvings: int = 1
    """Times that each side is halved: 1 makes 16x16 latents of 32x32 pixels, 2 makes 8x8."""
    pixel_width: int = 32
    """Channels of the decoder's feature maps at full size (not `integers`)."""
    pixel_blocks: int = 0
    """Residual blocks of the decoder at full size (not `integers`)."""
    mixtures: int = 5
    """Logistics in the likelihood of a pixel."""
    dropout: float = 0.0
    """Dropout in the residual blocks."""

    def __post_init__(self) -> None:
        """Check every value that the types leave open.

        Raises:
            VqnmtError: Names the key, its value and the values allowed.
        """
        for key in ("width", "pixel_width"):
            _within("autoencoder", self, key, 1, _WIDEST)
        for key in ("blocks", "pixel_blocks"):
            _within("autoencoder", self, key, 0, _DEEPEST)
        _within("autoencoder", self, "halvings", 1, 12)  # of an image of 4096
        _within("autoencoder", self, "mixtures", 1, 1000)
        _check_dropout("autoencoder", self.dropout)


@dataclass(kw_only=True, slots=True)
class PriorConfig:
    """The autoregressive network: over the codes, or over the pixels of the kind `pixels`."""

    name: str = "pixelcnn"
    """`uniform` (log K a code), `pixelcnn` (gated convolutions) or `transformer`."""
    width: int = 32
    """Channels, or model width."""
    layers: int = 3
    """Gated layers, or layers of the Transformer."""
    heads: int = 4
    """Attention heads (`transformer`)."""
    dropout: float = 0.0
    """Dropout in every layer."""
    joint: bool = False
    """Whether the prior is trained along with the autoencoder (van den Oord et al. 2017 leave that
    open) instead of afterwards on its codes. `integers` is always joint."""

    def __post_init__(self) -> None:
        """Check every value that the types leave open.

        Raises:
            VqnmtError: Names the key, its value and the values allowed.
        """
        if self.name not in PRIORS:
            raise VqnmtError(f"prior.name is {self.name!r}; choose one of {', '.join(PRIORS)}")
        _within("prior", self, "width", 1, _WIDEST)
        _within("prior", self, "layers", 1, _DEEPEST)
        _within("prior", self, "heads", 1, _WIDEST)
        if self.width % (2 * self.heads):
            raise VqnmtError(
                f"prior.width is {self.width}; it must be a multiple of twice prior.heads="
                f"{self.heads}"
            )
        _check_dropout("prior", self.dropout)


@dataclass(kw_only=True, slots=True)
class ImageModelConfig:
    """One image model; keys that do not concern its kind are left unread."""

    kind: str = "vqvae"
    """`vqvae`; `vae` (Gaussian latents); `integers` (rounded latents, trained for rate and
    reconstruction at once); `pixels` (an autoregressive Transformer, no latents)."""
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Encoder and decoder (not `pixels`)."""
    latent_dim: int = 16
    """Size of a code vector (`vqvae`) or a position (`vae`); integers a position (`integers`)."""
    codes: int = 2
    """Codes at each position of the grid, all from one codebook (`vqvae`)."""
    quantizer: QuantizerConfig = field(
        default_factory=lambda: SoftEMConfig(decay=0.99, samples=5, temperature=0.2)
    )
    """The codebook (`vqvae`)."""
    levels: int = 31
    """Values of an integer (`integers`)."""
    rate_warmup: float = 0.2
    """Fraction of training over which the weight of the rate rises from 0 to 1, so that the decoder
    learns to read the latents before their rate is penalised (`vae`, `integers`)."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """The network over codes or pixels (not `vae`)."""

    def __post_init__(self) -> None:
        """Check every value that the types leave open.

        Raises:
            VqnmtError: Names the key, its value and the values allowed.
        """
        if self.kind not in KINDS:
            raise VqnmtError(f"model.kind is {self.kind!r}; choose one of {', '.join(KINDS)}")
        _within("model", self, "latent_dim", 1, _WIDEST)
        _within("model", self, "codes", 1, 256)
        if not 0 <= self.rate_warmup < 1:
            raise VqnmtError(
                f"model.rate_warmup is {self.rate_warmup}; it must be 0 or more and below 1"
            )
        if not 3 <= self.levels < 1 << 16 or self.levels % 2 == 0:
            raise VqnmtError(f"model.levels is {self.levels}; it must be odd and 3 to 65535")
        if self.kind == "integers" and self.prior.name != "pixelcnn":
            raise VqnmtError(
                f"prior.name is {self.prior.name!r}; model.kind=integers takes pixelcnn alone"
            )
        if self.kind == "integers" and self.autoencoder.halvings != 1:
            raise VqnmtError(
                f"autoencoder.halvings is {self.autoencoder.halvings}; model.kind=integers takes "
                "1 alone, because its decoder emits blocks of 2x2 pixels"
            )
        if self.kind == "pixels" and self.prior.name != "transformer":
            raise VqnmtError(
                f"prior.name is {self.prior.name!r}; model.kind=pixels takes transformer alone"
            )


def _within(group: str, config: object, key: str, least: int, most: int) -> None:
    if not least <= getattr(config, key) <= most:
        raise VqnmtError(
            f"{group}.{key} is {getattr(config, key)}; it must lie between {least} and {most}"
        )


def _check_dropout(group: str, value: float) -> None:
    if not 0 <= value < 1:
        raise VqnmtError(f"{group}.dropout is {value}; it must be 0 or more and below 1")
