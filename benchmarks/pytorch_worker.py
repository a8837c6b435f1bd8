"""The TRADES step in PyTorch as a worker of `benchmarks.pytorch_trades`.

Written from Zhang et al. 2019, https://arxiv.org/abs/1901.08573, and what the authors'
release does: "released" computes the clean logits anew in every attack step, with a graph,
and runs a second clean training pass for the KL; "tuned" computes them once each and keeps
images and weights channels-last.
"""

import argparse
import sys

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import worker

EPSILON, STEP_SIZE, BETA = 8 / 255, 2 / 255, 6.0


class Block(nn.Module):
    """conv-BN-ReLU-conv-BN + shortcut, then ReLU."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(out)
        self.shortcut = nn.Identity()
        if stride > 1 or channels != out:
            projection = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out))

    def forward(self, x):
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 with the CIFAR stem, layer for layer that of `vfd_tf.architectures`."""

    def __init__(self, width=1.0, classes=10):
        super().__init__()
        stages = [max(1, round(c * width)) for c in (64, 128, 256, 512)]
        channels = stages[0]
        self.stem = nn.Conv2d(3, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        blocks = []
        for stage, out in enumerate(stages):
            for stride in (2 if stage else 1, 1):
                blocks.append(Block(channels, out, stride))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.logits = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.logits(x.mean((2, 3)))


def divergence(model, x, target, reduction):
    """KL(target || p(x)) over the batch."""
    return F.kl_div(F.log_softmax(model(x), 1), target, reduction=reduction)


def adversary(model, x, steps, tuned):
    """x' of PGD on the KL, the model in inference mode."""
    model.eval()
    start = x + 0.001 * torch.randn_like(x)
    if tuned:
        with torch.no_grad():
            target = F.softmax(model(x), 1)
    for _ in range(steps):
        start = start.detach().requires_grad_()
        if not tuned:
            target = F.softmax(model(x), 1)
        score = divergence(model, start, target, "sum")
        (gradient,) = torch.autograd.grad(score, [start])
        moved = start.detach() + STEP_SIZE * gradient.sign()
        start = torch.minimum(torch.maximum(moved, x - EPSILON), x + EPSILON).clamp(0, 1)
    return start.detach()


def step_of(model, x, y, steps, tuned):
    """One training step: () -> loss. Fetching the loss waits for the device."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=2e-4)

    def step() -> float:
        x_adv = adversary(model, x, steps, tuned)
        model.train()
        optimizer.zero_grad()
        logits = model(x)
        target = F.softmax(logits if tuned else model(x), 1)
        robust = divergence(model, x_adv, target, "batchmean")
        loss = F.cross_entropy(logits, y) + BETA * robust
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def facts_of(model, device):
    """What must agree between the sides, and what stands in the header."""
    onednn = "on" if torch.backends.mkldnn.is_available() else "off"
    name = torch.cuda.get_device_name() if device == "cuda" else "none"
    return {
        "device": "gpu" if device == "cuda" else "cpu",
        "weights": sum(p.numel() for p in model.parameters()),
        "facts": {
            "GPU": name,
            "versions": f"PyTorch {torch.__version__}",
            "oneDNN": onednn,
        },
    }


def main(arguments):
    parser = argparse.ArgumentParser(parents=[worker.shared_flags()])
    parser.add_argument("--variant", choices=("released", "tuned"), required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    levels, labels = worker.batch(options.batch_size)
    x = torch.frombuffer(levels, dtype=torch.uint8).reshape(-1, 32, 32, 3)
    x = (x.permute(0, 3, 1, 2).float() / 255).contiguous().to(device)
    model = ResNet18(options.width).to(device)
    tuned = options.variant == "tuned"
    if tuned:
        x = x.to(memory_format=torch.channels_last)
        model = model.to(memory_format=torch.channels_last)
    y = torch.tensor(labels, device=device)
    own = facts_of(model, device)
    worker.serve(own, step_of(model, x, y, options.steps, tuned))


if __name__ == "__main__":
    main(sys.argv[1:])
