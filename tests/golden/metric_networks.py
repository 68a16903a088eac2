"""IResNet and I3D, restated from their papers, with the names that insightface's code and the usual PyTorch port of I3D give tensors."""

import torch
import torch.nn.functional as F
from torch import nn

from generate import LOW


class FaceBlock(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(cin), nn.BatchNorm2d(cout), nn.BatchNorm2d(cout)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1, bias=False)
        self.prelu = nn.PReLU(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, stride, padding=1, bias=False)
        shortcut = lambda: nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))
        self.downsample = shortcut() if stride > 1 else nn.Identity()

    def forward(self, x):
        h = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(h)) + self.downsample(x)


class IResNet(nn.Module):
    DEPTHS = {
        "iresnet18": (2, 2, 2, 2), "iresnet34": (3, 4, 6, 3), "iresnet50": (3, 4, 14, 3), "iresnet100": (3, 13, 30, 3),
    }

    def __init__(self, arch, num_features, width=64, **_):
        super().__init__()
        self.config = {"_class_name": "IResNet", "arch": arch, "width": width, "num_features": num_features}
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1, self.prelu = nn.BatchNorm2d(width), nn.PReLU(width)
        cin = width
        for i, depth in enumerate(self.DEPTHS[arch]):
            blocks = [FaceBlock(cin if b == 0 else width << i, width << i, 2 if b == 0 else 1) for b in range(depth)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            cin = width << i
        self.bn2, self.fc = nn.BatchNorm2d(cin), nn.Linear(cin * 7 * 7, num_features)
        self.features = nn.BatchNorm1d(num_features)

    def forward(self, images):
        x = self.prelu(self.bn1(self.conv1(images)))
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))


def same(x, kernel, stride):
    """Zeros for as many windows as there are steps, the odd one behind."""
    pads = []
    for n, k, s in reversed(list(zip(x.shape[2:], kernel, stride))):
        total = max(k - (s if n % s == 0 else n % s), 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class Unit(nn.Module):
    def __init__(self, cin, cout, kernel, eps, stride=1):
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(cin, cout, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(cout, eps=eps)

    def forward(self, x):
        return F.relu(self.bn(self.conv3d(same(x, self.kernel, self.stride))))


def pool(x, kernel, stride):
    return F.max_pool3d(same(x, kernel, stride), kernel, stride)


class Mixed(nn.Module):
    def __init__(self, cin, widths, eps):
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = Unit(cin, b0, 1, eps)
        self.b1a, self.b1b = Unit(cin, b1a, 1, eps), Unit(b1a, b1b, 3, eps)
        self.b2a, self.b2b = Unit(cin, b2a, 1, eps), Unit(b2a, b2b, 3, eps)
        self.b3b = Unit(cin, b3b, 1, eps)

    def forward(self, x):
        last = self.b3b(pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), last], 1)


class Logits(nn.Module):
    def __init__(self, cin, classes):
        super().__init__()
        self.conv3d = nn.Conv3d(cin, classes, 1)


class I3d(nn.Module):
    MIXED = {
        "3b": (64, 96, 128, 16, 32, 32), "3c": (128, 128, 192, 32, 96, 64), "4b": (192, 96, 208, 16, 48, 64),
        "4c": (160, 112, 224, 24, 64, 64), "4d": (128, 128, 256, 24, 64, 64), "4e": (112, 144, 288, 32, 64, 64),
        "4f": (256, 160, 320, 32, 128, 128), "5b": (256, 160, 320, 32, 128, 128), "5c": (384, 192, 384, 48, 128, 128),
    }

    def __init__(self, source, divide, num_classes, **_):
        super().__init__()
        self.config = {"_class_name": "InceptionI3d", "source": source, "divide": divide, "num_classes": num_classes}
        eps = {"piergiaj": 1e-3, "videogpt": 1e-5}[source]
        n = lambda width: max(width // divide, 1)
        self.Conv3d_1a_7x7 = Unit(3, n(64), 7, eps, 2)
        self.Conv3d_2b_1x1, self.Conv3d_2c_3x3 = Unit(n(64), n(64), 1, eps), Unit(n(64), n(192), 3, eps)
        cin = n(192)
        for name, widths in self.MIXED.items():
            widths = [n(w) for w in widths]
            setattr(self, f"Mixed_{name}", Mixed(cin, widths, eps))
            cin = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = Logits(cin, num_classes)

    def forward(self, video):
        x = pool(self.Conv3d_1a_7x7(video), (1, 3, 3), (1, 2, 2))
        x = pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in self.MIXED:
            side = {"4b": 3, "5b": 2}.get(name)
            x = pool(x, (side,) * 3, (2, 2, 2)) if side else x
            x = getattr(self, f"Mixed_{name}")(x)
        # PyTorch's CPU has no such pool of f16 or bf16.
        wide = x.float() if x.dtype in LOW.values() else x
        features = F.avg_pool3d(wide, (2, 7, 7), 1).to(x.dtype)
        return self.logits.conv3d(features).mean((2, 3, 4)), features
