from typing import Any

import pytest
import torch
from helpers import classification as tiny
from mmengine.model import BaseModel
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmkd_plugin.adapters import ClassifierHost, Host, host_of
from mmkd_plugin.adapters.taps import FeatureTaps


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
def test_the_score_tap_has_the_scores_in_training_and_alone(config: dict[str, Any]) -> None:
    model = tiny.network(config).eval()
    host = host_of(model)
    assert isinstance(host, ClassifierHost)
    batch = model.data_preprocessor(tiny.batch_of(), True)
    seen = []
    with FeatureTaps(model, host.score_taps).record(model) as features:
        model(**batch, mode='loss')
    seen.append(features[host.score_taps[0]])
    with FeatureTaps(model, host.score_taps).record(model) as features:
        host.run(model, batch['inputs'], scores=True)
    seen.append(features[host.score_taps[0]])
    assert torch.equal(*seen)
    predicted = torch.stack([sample.pred_score for sample in model(**batch, mode='predict')])
    torch.testing.assert_close(seen[0].softmax(dim=1), predicted)


def test_without_scores_the_head_does_not_run() -> None:
    model = tiny.network(tiny.classifier()).eval()
    calls = []
    model.head.register_forward_hook(lambda *_: calls.append('head'))
    model.neck.register_forward_hook(lambda *_: calls.append('neck'))
    host_of(model).run(model, torch.randn(2, 3, 8, 8), scores=False)
    assert calls == ['neck']


@pytest.mark.parametrize('size', [(8, 8), (8, 16)])
def test_a_transformers_tokens_are_the_map_that_they_stand_for(size: tuple[int, int]) -> None:
    config = small_vit()
    config['backbone'].update(img_size=size, out_type='featmap')
    model = tiny.network({**config, 'head': None, 'neck': None}).eval()
    taps = FeatureTaps(model, ['backbone.ln1', 'backbone'])
    inputs = torch.randn(2, 3, *size)
    with taps.record(model) as features:
        model(inputs, mode='tensor')
    assert features['backbone.ln1'].shape == (2, 1 + size[0] * size[1] // 16, 8)
    knowledge = host_of(model).knowledge(model, features, inputs)
    assert torch.equal(knowledge.features['backbone.ln1'], features['backbone']), (
        'as the backbone itself shapes it'
    )


def test_a_hierarchical_transformers_too() -> None:
    backbone = dict(
        type='SwinTransformer', arch=dict(embed_dims=4, depths=[1, 1], num_heads=[1, 1]), img_size=16, patch_size=2,
        window_size=4, out_indices=(0, 1),
    )  # fmt: skip
    model = tiny.network(dict(type='ImageClassifier', backbone=backbone)).eval()
    inputs = torch.randn(2, 3, 16, 16)
    with FeatureTaps(model, ['backbone.stages.1[0]', 'backbone.norm1', 'backbone[1]']).record(
        model
    ) as features:
        model(inputs, mode='tensor')
    seen = host_of(model).knowledge(model, features, inputs).features
    assert seen['backbone.stages.1[0]'].shape == (2, 8, 4, 4)
    assert torch.equal(seen['backbone.norm1'], features['backbone[1]'])


def test_tokens_of_another_number_stay_tokens() -> None:
    model = tiny.network(small_vit())
    seen = host_of(model).knowledge(model, {'x': torch.zeros(2, 8, 8)}, torch.zeros(2, 3, 8, 12))
    assert seen.features['x'].shape == (2, 8, 8)


def test_labels_are_indices_or_mixed_probabilities_or_none() -> None:
    host = host_of(tiny.network(tiny.classifier()))
    samples = [DataSample().set_gt_label(label) for label in (2, 0)]
    assert host.labels(samples).tolist() == [2, 0]
    mixed = [sample.set_gt_score(torch.tensor([0.25, 0.75, 0.0, 0.0])) for sample in samples]
    assert host.labels(mixed).tolist() == [[0.25, 0.75, 0.0, 0.0]] * 2
    assert (
        host.labels([DataSample().set_gt_label([0, 1])]) is None
    )  # several classes, none to ask for
    for none in (None, [], [DataSample()], [samples[0], DataSample()]):
        assert host.missing_labels(none)
        assert host.labels(none) is None


class Own(BaseModel):
    """As in MMEngine's tutorial: labels come second, under a name of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 4)

    def forward(self, images: Tensor, labels: Tensor, mode: str) -> Any:
        scores = self.net(images.mean(dim=(2, 3)))
        return {'loss': nn.functional.cross_entropy(scores, labels)} if mode == 'loss' else scores


def test_a_model_that_no_host_knows_runs_for_its_taps() -> None:
    model = Own()
    host = host_of(model)
    assert type(host) is Host
    assert (host.score_taps, host.labels(torch.ones(3)), host.missing_labels(torch.ones(3))) == (
        (),
        None,
        False,
    )
    with FeatureTaps(model, ['net']).record(model) as features:
        host.run(model, torch.randn(2, 3, 8, 8), scores=False)
    assert features['net'].shape == (2, 4)
