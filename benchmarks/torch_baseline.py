"""The same MoCo step in PyTorch, as a baseline. Needs torch.

Written for speed: pictures and augmentation on the device, channels last, autocast, few launches
for the updates; eager, or by torch.compile. Written from the paper (He et al. 2020), not from
existing code. `batches` feeds it in the most common way, from workers that open and augment
pictures with Pillow.
"""

import copy
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import input_pipeline
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landmarks_jax.augment import colour
from landmarks_jax.models import resnet


class Block(nn.Module):
  """A residual block of convolutions (features, side, stride), named as in torchvision."""

  def __init__(self, inputs: int, convs: tuple[tuple[int, int, int], ...]) -> None:
    super().__init__()
    self.count, outputs = len(convs), inputs
    for i, (features, side, stride) in enumerate(convs, 1):
      conv = nn.Conv2d(outputs, features, side, stride, side // 2, bias=False)
      self.add_module(f'conv{i}', conv)
      self.add_module(f'bn{i}', nn.BatchNorm2d(features))
      outputs = features
    stride = max(stride for _, _, stride in convs)
    self.downsample = nn.Identity()
    if stride > 1 or outputs != inputs:
      conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
      self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

  def forward(self, x: Tensor) -> Tensor:
    """Maps [B, C, h, w] -> [B, D, i, j]."""
    y = x
    for i in range(1, self.count + 1):
      y = getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(y))
      y = F.relu(y, inplace=True) if i < self.count else y
    return F.relu(y + self.downsample(x), inplace=True)


class Encoder(nn.Module):
  """A ResNet, average pool, one linear layer, unit length."""

  def __init__(self, depth: int, width: float, dim: int) -> None:
    super().__init__()
    self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    self.bn1 = nn.BatchNorm2d(64)
    block, stage_sizes = resnet.DEPTHS[depth]
    channels = 64
    for i, blocks in enumerate(stage_sizes):
      stage = []
      for j in range(blocks):
        convs = block(int(64 * width * 2**i), 2 if i > 0 and j == 0 else 1)
        stage.append(Block(channels, convs))
        channels = convs[-1][0]
      self.add_module(f'layer{i + 1}', nn.Sequential(*stage))
    self.fc = nn.Linear(channels, dim)
    for module in self.modules():
      if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')

  def forward(self, x: Tensor) -> Tensor:
    """Network input [B, 3, H, W] -> unit rows [B, dim]."""
    x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, 1)
    for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
      x = stage(x)
    return F.normalize(self.fc(x.float().mean((2, 3))).float())


def random_boxes(count: int, side: int, device: torch.device) -> Tensor:
  """Boxes (x, y, width, height) [B, 4] with the distribution of augment/crop.py."""
  area = torch.empty(count, 10, device=device).uniform_(0.2, 1) * side**2
  aspect = torch.empty(count, 10, device=device).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
  sizes = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], -1).round()
  fits = (sizes <= side).all(-1)
  first = fits.int().argmax(1)[:, None, None].expand(-1, 1, 2)
  size = torch.where(fits.any(1)[:, None], sizes.gather(1, first)[:, 0], float(side))
  start = (torch.rand(count, 2, device=device) * (side - size + 1)).floor()
  return torch.cat([start, size], 1)


def interval_matrix(start: Tensor, extent: Tensor, side: int) -> Tensor:
  """Matrices [B, side, side] that stretch intervals to the whole line; see geometry/sampling.py."""
  place = torch.arange(side, device=start.device)
  samples = (place + 0.5) * (extent[:, None] / side) - 0.5
  position = start[:, None] + samples.clamp(min=0).minimum(extent[:, None] - 1)
  return (1 - (position[..., None] - place).abs()).clamp(min=0)


def crop_resize(image: Tensor, boxes: Tensor) -> Tensor:
  """A box of every picture [B, 3, S, S], stretched to S x S by two matrix products."""
  rows = interval_matrix(boxes[:, 1], boxes[:, 3], image.shape[2])
  columns = interval_matrix(boxes[:, 0], boxes[:, 2], image.shape[3])
  cut = torch.einsum('byh,bchw->bcyw', rows, image)
  return torch.einsum('bxw,bcyw->bcyx', columns, cut)


class View(nn.Module):
  """A random view of every frame: crop, jitter, PCA noise, centre, as in augment/views.py.

  Without `augment` it is just the frame's centre.
  """

  def __init__(
    self, *, margin: int, augment: bool, mean: tuple[float, ...], std: tuple[float, ...]
  ) -> None:
    super().__init__()
    self.margin, self.augment = margin, augment
    self.register_buffer('mean', 255 * torch.tensor(mean)[:, None, None])
    self.register_buffer('std', 255 * torch.tensor(std)[:, None, None])
    self.register_buffer('luma', torch.tensor(colour.LUMA)[:, None, None])
    self.register_buffer('basis', torch.tensor(25.5 * colour.EIGENVECTORS * colour.EIGENVALUES))

  def forward(self, frames: Tensor) -> Tensor:
    """Pictures [B, S, S, 3], 0..255 -> network input [B, 3, s, s], channels last."""
    image = frames.permute(0, 3, 1, 2).float()
    if self.augment:
      boxes = random_boxes(len(image), image.shape[2], image.device)
      image = self.jitter(crop_resize(image, boxes))
    inside = slice(self.margin, image.shape[2] - self.margin)
    image = image[:, :, inside, inside]
    if self.augment:
      normals = torch.randn(len(image), 3, device=image.device)
      image = image + (normals @ self.basis.T)[:, :, None, None]
    return ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

  def jitter(self, image: Tensor) -> Tensor:
    """Brightness, contrast and saturation by U(.6, 1.4), in random order."""
    factors = torch.empty(len(image), 3, device=image.device).uniform_(0.6, 1.4)
    order = torch.rand(len(image), 3, device=image.device).argsort(1)
    for kind in order.unbind(1):
      factor = factors.gather(1, kind[:, None])[:, :, None, None]
      grey = (image * self.luma).sum(1, keepdim=True)
      kind = kind[:, None, None, None]
      other = torch.where(kind == colour.CONTRAST, grey.mean((2, 3), keepdim=True), grey)
      other = torch.where(kind == colour.BRIGHTNESS, 0.0, other)
      image = (factor * image + (1 - factor) * other).clamp(0, 255)
    return image


class Step:
  """A whole training step, with queue and moving average; a call takes one and returns its loss.

  Args: frames: uint8 [B, S, S, 3], the same at every step. compiled: whether to use torch.compile.
  view: of `View`. The rest as in landmarks_jax.methods.moco, with norm_groups=1 and head_layers=1.
  """

  def __init__(
    self,
    frames: np.ndarray,
    *,
    depth: int,
    width: float,
    dim: int,
    queue: int,
    temperature: float,
    momentum: float,
    precision: str,
    learning_rate: float,
    weight_decay: float,
    compiled: bool = False,
    **view: Any,
  ) -> None:
    self.device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision('high')  # XLA's default
    self.temperature, self.momentum = temperature, momentum
    self.bfloat16 = precision == 'bfloat16'
    self.frames = torch.tensor(frames, device=self.device)
    self.view = View(**view).to(self.device)
    self.query = Encoder(depth, width, dim).to(self.device, memory_format=torch.channels_last)
    self.key = copy.deepcopy(self.query).requires_grad_(False)
    if compiled:
      for module in (self.view, self.query, self.key):
        module.compile()  # in place, which keeps the names of the weights
    self.queue = (torch.rand(queue, dim, device=self.device) * 2 - 1) * (3 / dim) ** 0.5
    self.pointer = 0
    self.optimizer = torch.optim.SGD(
      self.query.parameters(), learning_rate, momentum=0.9, weight_decay=weight_decay
    )

  def __call__(self) -> Tensor:
    """Takes a step on the frames that it holds."""
    return self.take(self.frames, self.frames)

  def take(self, first: Tensor, second: Tensor) -> Tensor:
    """Takes a step on views of two sets of the same pictures, [B, S, S, 3]."""
    first, second = (x.to(self.device, non_blocking=True) for x in (first, second))
    order = torch.randperm(len(second), device=self.device)
    with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
      with torch.no_grad():
        key = self.key(self.view(second[order]))[order.argsort()]
      query = self.query(self.view(first))
    positive = (query * key).sum(1, keepdim=True)
    logits = torch.cat([positive, query @ self.queue.T], 1) / self.temperature
    loss = -logits.log_softmax(1)[:, 0].mean()
    self.optimizer.zero_grad()
    loss.backward()
    self.optimizer.step()
    self.after_update(key)
    return loss.detach()

  @torch.no_grad()
  def after_update(self, key: Tensor) -> None:
    """Overwrites the oldest keys in the queue, and updates the key encoder."""
    rows = torch.arange(self.pointer, self.pointer + len(key), device=self.device)
    self.queue[rows % len(self.queue)] = key
    self.pointer = (self.pointer + len(key)) % len(self.queue)
    moving, current = list(self.key.parameters()), list(self.query.parameters())
    torch._foreach_lerp_(moving, current, 1 - self.momentum)  # avoids one launch per weight


class TwoViews(torch.utils.data.Dataset):
  """Two random views of a picture's frame, opened and augmented with Pillow in the worker."""

  def __init__(self, files: Sequence[pathlib.Path], *, frame: int, margin: int) -> None:
    self.loop = input_pipeline.Loop(files, frame)
    self.views = input_pipeline.PillowViews(np.zeros((0, frame, frame, 3)), margin, jpeg=False)

  def __len__(self) -> int:
    return len(self.loop)

  def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    frame = self.loop[index]['image']
    self.views.rng = np.random.default_rng(torch.randint(2**31, ()).item())  # workers share seeds
    return self.views.view(frame), self.views.view(frame)


def batches(data: TwoViews, *, batch_size: int, workers: int) -> Iterator[list[Tensor]]:
  """Endless shuffled pairs of views; close the iterator to stop the workers."""
  loader = torch.utils.data.DataLoader(
    data,
    batch_size,
    shuffle=True,
    drop_last=True,
    num_workers=workers,
    persistent_workers=True,
    pin_memory=torch.cuda.is_available(),
    multiprocessing_context='forkserver',  # JAX's threads do not survive a fork
  )
  while True:
    yield from loader
