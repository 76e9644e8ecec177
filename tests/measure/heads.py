"""A head small enough to count by hand."""

from torch import nn

from heads.interface import Channels, ContextHead, Features, HeadOutput

CHANNELS = Channels(2, 4, 8, 16)
WIDTH, CLASSES = 6, 3


class TinyHead(ContextHead):
    """A 1x1 convolution as context, a classifier, and a branch on layer3 in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.context = nn.Sequential(nn.Conv2d(CHANNELS.layer4, WIDTH, 1), nn.ReLU())
        self.classifier = nn.Conv2d(WIDTH, CLASSES, 1)
        self.auxiliary = nn.Conv2d(CHANNELS.layer3, CLASSES, 1)

    def forward(self, features: Features) -> HeadOutput:
        aux = {"aux": self.auxiliary(features.layer3)} if self.training else {}
        return HeadOutput(self.classifier(self.context(features.layer4)), aux, {})
