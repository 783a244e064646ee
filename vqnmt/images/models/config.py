"""Settings of the image models: kind and size."""

from dataclasses import InitVar, dataclass, field
from typing import Annotated, Literal

from vqnmt.errors import VqnmtError
from vqnmt.quantizers import QuantizerConfig, SoftEMConfig
from vqnmt.settings import Fraction, Settings, between, check

# A larger width is a typing error that would cost hours or all memory.
Width = Annotated[int, between(1, 8192)]


@dataclass(kw_only=True, slots=True)
class AutoencoderConfig(Settings):
    """The convolutional encoder and decoder between pixels and a grid of latents."""

    group: InitVar[str] = "autoencoder"
    width: Width = 48
    """Channels of the feature maps on the grid of latents."""
    blocks: Annotated[int, between(0, 1000)] = 2
    """Residual blocks of the encoder, and as many of the decoder (`blockwise` and `integers`: of
    each of its passes), on the grid of latents."""
    halvings: Annotated[int, between(1, 12)] = 1
    """Times that each side is halved: 1 makes 16x16 latents of 32x32 pixels, 2 makes 8x8."""
    pixel_width: Width = 32
    """Channels of the decoder's feature maps at full size (not `blockwise` and `integers`)."""
    pixel_blocks: Annotated[int, between(0, 1000)] = 0
    """Residual blocks of the decoder at full size (not `blockwise` and `integers`)."""
    mixtures: Annotated[int, between(1, 1000)] = 5
    """Logistics in the likelihood of a pixel."""
    dropout: Fraction = 0.0
    """Dropout in the residual blocks."""


@dataclass(kw_only=True, slots=True)
class PriorConfig(Settings):
    """The autoregressive network: over the codes, or over the pixels of the kind `pixels`."""

    group: InitVar[str] = "prior"
    name: Literal["uniform", "pixelcnn", "transformer"] = "pixelcnn"
    """`uniform` (log K a code), `pixelcnn` (gated convolutions) or `transformer`."""
    width: Width = 32
    """Channels, or model width."""
    layers: Annotated[int, between(1, 1000)] = 3
    """Gated layers, or layers of the Transformer."""
    heads: Width = 4
    """Attention heads (`transformer`)."""
    dropout: Fraction = 0.0
    """Dropout in every layer."""
    joint: bool = False
    """Whether the prior is trained along with the autoencoder (van den Oord et al. 2017 leave that
    open) instead of afterwards on its codes. `blockwise` and `integers` are always joint."""

    def __post_init__(self, group: str) -> None:
        """Check every field, and the width against the heads."""
        check(self, group)
        if self.width % (2 * self.heads):
            raise VqnmtError(
                f"{group}.width is {self.width}; it must be a multiple of twice {group}.heads="
                f"{self.heads}"
            )


@dataclass(kw_only=True, slots=True)
class ImageModelConfig(Settings):
    """One image model; keys that do not concern its kind are left unread."""

    group: InitVar[str] = "model"
    kind: Literal["vqvae", "blockwise", "vae", "integers", "pixels"] = "vqvae"
    """`vqvae`; `blockwise` (residual codes, pixels in a few passes) and `integers` (rounded
    latents), both trained for rate and reconstruction at once; `vae` (Gaussian latents); `pixels`
    (an autoregressive Transformer, no latents)."""
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Encoder and decoder (not `pixels`)."""
    latent_dim: Width = 16
    """Size of a code vector (`vqvae`, `blockwise`) or a position (`vae`); integers a position
    (`integers`)."""
    codes: Annotated[int, between(1, 256)] = 2
    """Codes at each position of the grid, all from one codebook (`vqvae`)."""
    quantizer: QuantizerConfig = field(
        default_factory=lambda: SoftEMConfig(decay=0.99, samples=5, temperature=0.2)
    )
    """The codebook (`vqvae`), or the `residual` ones (`blockwise`)."""
    levels: Annotated[int, between(3, (1 << 16) - 1)] = 31
    """Values of an integer, an odd number (`integers`)."""
    rate_warmup: Fraction = 0.2
    """Fraction of training over which the weight of the rate rises from 0 to 1, so that the decoder
    learns to read the latents before their rate is penalised (`vae`, `blockwise`, `integers`)."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """The network over codes or pixels (not `vae`)."""

    def __post_init__(self, group: str) -> None:
        """Check every field, and that the parts fit the kind of model."""
        check(self, group)
        if self.levels % 2 == 0:
            raise VqnmtError(f"{group}.levels is {self.levels}; it must be odd")
        prior, halvings = self.prior.name, self.autoencoder.halvings
        needed = {"blockwise": "pixelcnn", "integers": "pixelcnn", "pixels": "transformer"}
        if prior != (alone := needed.get(self.kind, prior)):
            raise VqnmtError(
                f"{group}.prior.name is {prior!r}; {group}.kind={self.kind} takes {alone} alone"
            )
        if self.kind == "blockwise" and self.quantizer.name != "residual":
            raise VqnmtError(
                f"{group}.quantizer.name is {self.quantizer.name!r}; {group}.kind=blockwise takes "
                "residual alone"
            )
        if self.kind == "integers" and halvings != 1:
            raise VqnmtError(
                f"{group}.autoencoder.halvings is {halvings}; {group}.kind=integers takes 1 alone, "
                "because its decoder emits blocks of 2x2 pixels"
            )
