"""A decoder that emits the pixels of an image in a few parallel passes (after Reed et al. 2017).

The image is cut into blocks of 2x2 pixels:

    A B
    C D

The passes emit the A of all blocks at once, then all D, all B, all C. Each reads the latents and
the pixels of all earlier passes, in neighbouring blocks too, so that

    -log p(x | z) = -log p(A | z) - log p(D | z, A) - log p(B | z, A, D) - log p(C | z, A, D, B)

is exact. With one level there are as many blocks as positions in the grid of latents. With n levels
the A of one level are the image of the next coarser one, whose own four passes come first: 3 n + 1
passes, for latents of 1 / 2^n of the image's side. Training takes one forward pass, for any image
size. The feature maps of the finest level have half the image's side.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqnmt.images.models.autoencoder import Double, ResidualBlock2d
from vqnmt.images.models.config import AutoencoderConfig
from vqnmt.images.models.logistics import PARAMETERS, pixel_nats, scale_values

# Row and column of each pass's pixel in its block: A, D, B, C.
PLACES = ((0, 0), (1, 1), (0, 1), (1, 0))
# The nearest known pixels of D, B and C: (group, rows, columns away in blocks).
NEIGHBOURS = (
    [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)],  # the four A around D
    [(0, 0, 0), (0, 0, 1), (1, -1, 0), (1, 0, 0)],  # A left and right of B, D above and below
    [(0, 0, 0), (0, 1, 0), (1, 0, -1), (1, 0, 0)],  # A above and below C, D left and right
)
# Initial values of a pass: the log-scales of red, green and blue around the predicted pixel (the
# mixture's components are spread by one to either side), and how far green follows red's residual,
# and blue red's and green's (before the tanh).
LOG_SCALES = (-2.5, -3.5, -3.5)
COUPLINGS = (1.0, 0.0, 1.0)
# Scales input and output of the last layers of the means. Without it one step of Adam on all their
# weights would move a mean by more than the width of its logistic.
DAMPING = 0.1
# Scales a fresh encoder's latents, and the decoder's input to [-4, 4].
GAIN = 4.0
# Where the latents start as colours, the first three are lightness, red - green and blue - green.
COLOURS = ((1 / 3, 1 / 3, 1 / 3), (1.0, -1.0, 0.0), (0.0, -1.0, 1.0))


def colours(latent_dim: int) -> Tensor:
    """The weight (latent_dim, 3) that makes latents of a pixel, which its inverse turns back."""
    weight = torch.zeros(latent_dim, 3)
    weight[:3] = torch.tensor(COLOURS)[:latent_dim]
    return weight


def split_blocks(images: Tensor) -> Tensor:
    """Take images (B, 3, H, W) apart into A, D, B, C of all blocks: (4, B, 3, H / 2, W / 2)."""
    return torch.stack([images[:, :, row::2, column::2] for row, column in PLACES])


def join_blocks(groups: Tensor) -> Tensor:
    """Undo `split_blocks`."""
    _, batch, channels, height, width = groups.shape
    images = groups.new_empty(batch, channels, 2 * height, 2 * width)
    for (row, column), group in zip(PLACES, groups, strict=True):
        images[:, :, row::2, column::2] = group
    return images


def split_passes(images: Tensor, levels: int) -> list[Tensor]:
    """Take images (B, 3, H, W) apart into what the passes emit, in their order."""
    passes: list[Tensor] = []
    for _ in range(levels):
        images, *finer = split_blocks(images)
        passes = [*finer, *passes]
    return [images, *passes]


class PixelPass(nn.Module):
    """One pass: features of all that is known, and the likelihood of its pixel of each block.

    The logistics are centred on a linear prediction of the pixel from the 3x3 blocks around it;
    green's and blue's means move with the residuals of the channels before them.

    Args:
        config: Width, residual blocks, mixtures.
        prediction: Weight (3, known, 3, 3) that the prediction starts from; `known` are the
            channels of what is read: the latents, or the pixels known so far.
    """

    def __init__(self, config: AutoencoderConfig, prediction: Tensor) -> None:
        super().__init__()
        known = prediction.shape[1]
        self.read = nn.Conv2d(known, config.width, 3, padding=1)
        self.predict = nn.Conv2d(known, 3, 3, padding=1, padding_mode="replicate")
        self.predict.weight.data.copy_(prediction / DAMPING)
        self.predict.bias.data.zero_()  # type: ignore
        self.blocks = nn.Sequential(
            *[ResidualBlock2d(config.width, config.dropout) for _ in range(config.blocks)]
        )
        self.output = nn.Conv2d(config.width, PARAMETERS * config.mixtures, 1)
        nn.init.normal_(self.output.weight, std=0.01)
        spread = torch.linspace(-1, 1, config.mixtures + 2)[1:-1, None]
        start = [
            torch.zeros(4 * config.mixtures),  # weights and means
            (torch.tensor(LOG_SCALES) + spread).flatten(),
            torch.tensor(COUPLINGS).repeat(config.mixtures),
        ]
        self.output.bias.data.copy_(torch.cat(start))  # type: ignore

    def forward(self, hidden: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Map the features of the pass before (B, width, h, w), or 0, and `known` (B, C, h, w).

        Returns:
            The features after this pass, and the parameters (B, 10 M, h, w) of its pixels.
        """
        hidden = self.blocks(hidden + self.read(known))
        raw = self.output(F.relu(hidden))
        with torch.autocast(raw.device.type, enabled=False):
            return hidden, _around(raw.float(), self.predict(DAMPING * known.float()))


def _around(parameters: Tensor, centre: Tensor) -> Tensor:
    """Move the means of `parameters` (B, 10 M, h, w) to a pixel predicted at (B, 3, h, w)."""
    mixtures = parameters.shape[1] // PARAMETERS
    logits, rest = parameters.split([mixtures, 9 * mixtures], dim=1)
    means, log_scales, couplings = rest.unflatten(1, (3, mixtures, 3)).unbind(1)
    to_green, red_to_blue, green_to_blue = couplings.tanh().unbind(2)  # (B, M, h, w)
    red, green, blue = centre[:, None].unbind(2)  # (B, 1, h, w)
    # m + c x becomes m + centre + c (x - centre of the other channel)
    centres = [
        red.expand_as(to_green),
        green - to_green * red,
        blue - red_to_blue * red - green_to_blue * green,
    ]
    means = DAMPING * means + torch.stack(centres, dim=2)
    return torch.cat([logits, *(x.flatten(1, 2) for x in (means, log_scales, couplings))], dim=1)


class BlockwiseDecoder(nn.Module):
    """The passes over the grid of latents (B, C, H / 2^levels, W / 2^levels) and over finer ones.

    Args:
        config: Width, residual blocks of each pass, mixtures.
        start: (3, C), the colour of the first A in a position's latents to start from.
        levels: Each has twice the side of the one before; a level's features start as those of the
            level before.
    """

    def __init__(self, config: AutoencoderConfig, start: Tensor, levels: int = 1) -> None:
        super().__init__()
        first = PixelPass(config, F.pad(start[:, :, None, None], (1, 1, 1, 1)))
        self.passes = nn.ModuleList([first, *_later_passes(config)])
        self.doublings = nn.ModuleList()
        self.finer = nn.ModuleList()
        for _ in range(levels - 1):
            self.doublings.append(Double(config.width, config.width))
            self.finer.append(nn.ModuleList(_later_passes(config)))

    @property
    def levels(self) -> int:
        """How many times the side of the latents' grid is doubled."""
        return 1 + len(self.finer)

    def decode(self, latents: Tensor, pick: Callable[[Tensor], Tensor]) -> Tensor:
        """Decode images (B, 3, H, W) uint8, pass after pass.

        Args:
            latents: (B, C, h, w).
            pick: From the parameters (B, 10 M, h', w') of a pass to its pixels (B, 3, h', w')
                uint8, which the passes after it read.
        """
        zero = torch.zeros((), device=latents.device)
        hidden, parameters = self.passes[0](zero, latents)
        images = pick(parameters)
        for level, passes in enumerate([list(self.passes)[1:], *self.finer]):
            if level:
                hidden = self.doublings[level - 1](F.relu(hidden))
            groups = [images]
            for one_pass in passes:
                known = scale_values(torch.cat(groups, dim=1), 256)
                hidden, parameters = one_pass(hidden, known)
                groups.append(pick(parameters))
            images = join_blocks(torch.stack(groups))
        return images

    def parameters_of(self, latents: Tensor, images: Tensor) -> list[Tensor]:
        """The parameters (B, 10 M, h', w') of each pass given true pixels (B, 3, H, W) uint8."""
        truth, found = iter(split_passes(images, self.levels)), []

        def pick(parameters: Tensor) -> Tensor:
            found.append(parameters)
            return next(truth)

        self.decode(latents, pick)
        return found

    def nats(self, latents: Tensor, images: Tensor) -> Tensor:
        """-log p(x | z) of images (B, 3, H, W) uint8, in nats an image (B,)."""
        truth = split_passes(images, self.levels)
        found = self.parameters_of(latents, images)
        return torch.stack([pixel_nats(*x) for x in zip(found, truth, strict=True)]).sum(dim=0)

    @torch.no_grad()
    def emit(self, latents: Tensor, pick: Callable[[Tensor], Tensor]) -> Tensor:
        """`decode` without gradients; `pick` is `sample_pixels` or `expected_pixels`."""
        return self.decode(latents, pick)


def _later_passes(config: AutoencoderConfig) -> list[PixelPass]:
    """The passes of D, B and C, whose predictions start as the mean of the nearest known pixels."""
    passes = []
    for groups, neighbours in enumerate(NEIGHBOURS, 1):
        weight = torch.zeros(3, groups, 3, 3, 3)  # predicted channel, group, its channel
        for group, row, column in neighbours:
            weight[:, group, :, 1 + row, 1 + column] = torch.eye(3) / len(neighbours)
        passes.append(PixelPass(config, weight.flatten(1, 2)))
    return passes
