from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import ANY, raises_config_error
from mmengine.model import BaseModel
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmkd_plugin.adapters import Adapter, ClassifierAdapter, TappedModel, get_adapter


def small_vit() -> dict[str, Any]:
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='VisionTransformer',
            arch=dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=8),
            img_size=8,
            patch_size=4,
        ),
        head=dict(
            type='VisionTransformerClsHead',
            num_classes=4,
            in_channels=8,
            loss=dict(type='CrossEntropyLoss'),
        ),
    )


def with_head(**head: Any) -> dict[str, Any]:
    return {**tiny.classifier(), 'head': dict(num_classes=4, in_channels=16, **head)}


@pytest.mark.parametrize(
    'config',
    [
        tiny.classifier(),
        small_vit(),
        with_head(type='StackedLinearClsHead', mid_channels=[8]),
        with_head(type='LinearClsHead', loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1)),
    ],
    ids=['linear', 'vit', 'stacked', 'smooth'],
)
def test_scores_are_the_same_in_training_in_observation_and_in_prediction(
    config: dict[str, Any],
) -> None:
    net = TappedModel(tiny.network(config).eval(), 'student')
    assert isinstance(net.adapter, ClassifierAdapter)
    net.request([], scores=True)
    batch = net.model.data_preprocessor(tiny.batch_of(), True)
    with net.recording(**batch) as recording:
        net.model(**batch, mode='loss')
    scores = recording.output.scores
    assert torch.equal(scores.logits, net.observe(batch['inputs']).scores.logits)
    assert (scores.activation, scores.per_image, scores.num_classes) == ('softmax', True, 4)
    predicted = torch.stack([sample.pred_score for sample in net.model(**batch, mode='predict')])
    torch.testing.assert_close(scores.logits[:, 0].softmax(dim=1), predicted)


def test_observe_without_scores_does_not_run_the_head() -> None:
    net = TappedModel(tiny.network(tiny.classifier()).eval(), 'teacher')
    net.request(['neck'])
    calls = []
    net.model.head.register_forward_hook(lambda *_: calls.append('head'))
    net.model.backbone.register_forward_hook(lambda *_: calls.append('backbone'))
    net.observe(torch.randn(2, 3, 8, 8))
    assert calls == ['backbone']


def test_observe_without_scores_reaches_a_tap_in_the_head() -> None:
    """A loss on relations between logits taps the head, and needs no class scores."""
    net = TappedModel(tiny.network(tiny.classifier()).eval(), 'teacher')
    net.request(['head'])
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(net.observe(images).feature('head'), net.model(images, mode='tensor'))


def test_scores_of_a_classifier_without_a_head_are_refused() -> None:
    model = tiny.network({**tiny.classifier(), 'head': None})
    with raises_config_error('student', ANY, 'ImageClassifier', 'it has no head', fix='taps alone'):
        TappedModel(model, 'student').request([], scores=True)


@pytest.mark.parametrize('size', [(8, 8), (8, 16)])
def test_features_of_a_transformer_are_the_map_of_its_tokens(size: tuple[int, int]) -> None:
    config = small_vit()
    config['backbone'].update(img_size=size, out_type='featmap')
    model = tiny.network({**config, 'head': None, 'neck': None}).eval()
    tokens: list[Tensor] = []
    model.backbone.ln1.register_forward_hook(lambda _, __, output: tokens.append(output))
    net = TappedModel(model, 'student')
    net.request(['backbone.ln1', 'backbone'])
    output = net.observe(torch.randn(2, 3, *size))
    assert tokens[0].shape == (2, 1 + size[0] * size[1] // 16, 8)
    assert torch.equal(output.feature('backbone.ln1'), output.feature('backbone')), (
        'as the backbone itself shapes it'
    )


def test_features_of_a_hierarchical_transformer_are_maps_too() -> None:
    backbone = dict(
        type='SwinTransformer',
        arch=dict(embed_dims=4, depths=[1, 1], num_heads=[1, 1]),
        img_size=16,
        patch_size=2,
        window_size=4,
        out_indices=(0, 1),
    )
    model = tiny.network(dict(type='ImageClassifier', backbone=backbone)).eval()
    net = TappedModel(model, 'student')
    net.request(['backbone.stages.1[0]', 'backbone.norm1', 'backbone[1]'])
    output = net.observe(torch.randn(2, 3, 16, 16))
    assert output.feature('backbone.stages.1[0]').shape == (2, 8, 4, 4)
    assert torch.equal(output.feature('backbone.norm1'), output.feature('backbone[1]'))


def test_labels_are_indices_or_mixed_probabilities_or_none() -> None:
    adapter = get_adapter(tiny.network(tiny.classifier()))
    samples = [DataSample().set_gt_label(label) for label in (2, 0)]
    assert adapter.labels(samples).tolist() == [2, 0]
    mixed = [sample.set_gt_score(torch.tensor([0.25, 0.75, 0.0, 0.0])) for sample in samples]
    assert adapter.labels(mixed).tolist() == [[0.25, 0.75, 0.0, 0.0]] * 2
    several = [DataSample().set_gt_label([0, 1])]  # under a softmax the classes share the image
    assert adapter.labels(several).tolist() == [[0.5, 0.5, 0.0, 0.0]]
    for none in (None, [], [DataSample()], [samples[0], DataSample()]):
        assert adapter.missing_labels(none)
        assert adapter.labels(none) is None


class Own(BaseModel):
    """As in MMEngine's tutorial: labels come second, under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 4)

    def forward(self, images: Tensor, labels: Tensor, mode: str) -> Any:
        scores = self.net(images.mean(dim=(2, 3)))
        return {'loss': nn.functional.cross_entropy(scores, labels)} if mode == 'loss' else scores


def test_unknown_model_is_observed_by_its_taps() -> None:
    net = TappedModel(Own(), 'student')
    assert type(net.adapter) is Adapter
    assert net.adapter.score_taps == {}
    assert net.adapter.labels(torch.ones(3)) is None
    assert not net.adapter.missing_labels(torch.ones(3))
    net.request(['net'])
    assert net.observe(torch.randn(2, 3, 8, 8)).feature('net').shape == (2, 4)
