"""Class scores of MMPretrain's heads: activation by the loss, no margin, several outputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.errors import ANY, raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS
from mmpretrain.models.heads import ClsHead, ConformerHead, LinearClsHead
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample, MultiTaskDataSample
from torch import Tensor, nn

from mmkd_plugin.adapters import get_adapter
from mmkd_plugin.adapters.classifier_heads import activation_of
from mmkd_plugin.adapters.score_readers import find_score_reader

C = tiny.CLASSES
LINEAR = dict(type='LinearClsHead', num_classes=C)


def classifier(neck: bool = True, **head: Any) -> dict[str, Any]:
    """Return a classifier with another head."""
    config = tiny.classifier()
    config['head'] = dict(num_classes=C, in_channels=16, **head)
    if not neck:
        config['neck'] = None
    return config


MULTI_LABEL = classifier(type='MultiLabelLinearClsHead')
CSRA = classifier(neck=False, type='CSRAClsHead', num_heads=1, lam=0.1)
ARCFACE = classifier(type='ArcFaceClsHead')
TASKS = {
    **tiny.classifier(),
    'head': dict(
        type='MultiTaskHead',
        task_heads=dict(
            a=dict(type='LinearClsHead', num_classes=C), b=dict(type='LinearClsHead', num_classes=2)
        ),
        in_channels=16,
    ),
}


def distiller(folder: Path, config: dict[str, Any], **methods: Any) -> Any:
    teacher = dict(name='t', model=config, checkpoint=tiny.checkpoint(folder, config, seed=3))
    methods = methods or dict(kd=dict(type='SoftTarget'))
    return tiny.distiller(folder, student=config, teachers=[teacher], methods=methods).train()


def batch(labels: list[Any]) -> dict[str, Any]:
    raw = tiny.batch_of(len(labels))
    raw['data_samples'] = [DataSample().set_gt_label(label) for label in labels]
    return raw


@pytest.mark.parametrize(
    ('loss', 'activation'),
    [
        (dict(type='CrossEntropyLoss'), 'softmax'),
        (dict(type='CrossEntropyLoss', use_soft=True), 'softmax'),
        (dict(type='CrossEntropyLoss', use_sigmoid=True), 'sigmoid'),
        (dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=C), 'softmax'),
        (dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='multi_label'), 'sigmoid'),
        (dict(type='AsymmetricLoss'), 'sigmoid'),
        (dict(type='FocalLoss'), 'sigmoid'),
        (dict(type='SeesawLoss', num_classes=C), 'softmax'),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else value,
)
def test_activation_is_that_of_the_loss(loss: dict[str, Any], activation: str) -> None:
    head = nn.Module()
    head.loss_module = ROOT_MODELS.build(dict(loss, _scope_='mmpretrain'))
    before = {name: value.clone() for name, value in head.state_dict().items()}
    assert activation_of(head, C) == activation
    assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())


def test_single_labels_under_a_sigmoid_are_distilled_by_it(tmp_path: Path) -> None:
    """One stock config has this: the class of the head does not decide."""
    config = classifier(type='LinearClsHead', loss=dict(type='CrossEntropyLoss', use_sigmoid=True))
    config['head']['topk'] = (1,)
    adapter = get_adapter(tiny.network(config))
    assert adapter.labels([DataSample().set_gt_label(2)]).tolist() == [[0, 0, 1, 0]]
    config = classifier(type='MultiLabelLinearClsHead', loss=dict(type='CrossEntropyLoss'))
    assert get_adapter(tiny.network(config)).labels([DataSample().set_gt_label(2)]).tolist() == [2]


@pytest.mark.parametrize('config', [MULTI_LABEL, CSRA], ids=['linear', 'csra'])
def test_multi_label_head_learns_by_bernoulli_targets(
    config: dict[str, Any], tmp_path: Path
) -> None:
    amtml = dict(type='AMTMLKD', hint_weight=0.0, objective='label', angle_weight=0.0)
    model = distiller(tmp_path, config, kd=dict(type='SoftTarget', temperature=1.0), amtml=amtml)
    raw = batch([[0, 2], [1], [], [3]])
    with torch.no_grad():
        inputs = model.data_preprocessor(raw, True)['inputs']
        own = model.student(inputs)
        target = model.teachers[0].model(inputs)
    losses = tiny.losses_of(model, raw)
    p, q = target.sigmoid(), own.sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(dim=1).mean()
    torch.testing.assert_close(losses['kd.loss_kd'], expected, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(losses['amtml.loss_weighting']) and losses['amtml.loss_weighting'] > 0
    labels = model.tapped.adapter.labels(raw['data_samples'])
    assert labels.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_weighting_by_a_softmax_is_refused_for_multi_label_heads(tmp_path: Path) -> None:
    rule = dict(type='EntropyTeacherWeighting')
    with raises_config_error('methods.kd.weighting.type', ANY, 'under a softmax', fix='Latent'):
        distiller(tmp_path, MULTI_LABEL, kd=dict(type='SoftTarget', weighting=rule))


def test_scores_of_a_margin_head_carry_no_margin(tmp_path: Path) -> None:
    model = distiller(tmp_path, ARCFACE)
    model.teachers[0].model.load_state_dict(model.student.state_dict())
    model.eval()  # BatchNorm of the student as of the teacher
    losses = tiny.losses_of(model)
    assert losses['kd.loss_kd'].detach().abs() < 1e-3, 'equal weights, equal scores'
    with model.tapped.recording(None) as recording:
        raw = model.data_preprocessor(tiny.batch_of(), True)
        model.student(**raw, mode='loss')
    expected = model.student(raw['inputs'])  # predictions have no margin
    torch.testing.assert_close(recording.output.scores.logits[:, 0], expected)


def retriever() -> dict[str, Any]:
    return dict(
        type='ImageToImageRetriever',
        image_encoder=[ARCFACE['backbone'], ARCFACE['neck']],
        head=ARCFACE['head'],
        prototype=torch.arange(64.0).reshape(4, 16),
    )


def test_retriever_learns_the_class_scores_of_its_head(tmp_path: Path) -> None:
    """Its tensor mode ends at the encoder, and its predictions are similarities to a gallery."""
    amtml = dict(type='AMTMLKD', hint_weight=0.0)
    model = distiller(tmp_path, retriever(), kd=dict(type='SoftTarget'), amtml=amtml)
    losses = tiny.losses_of(model)
    assert losses['kd.loss_kd'] > 0 and losses['amtml.loss_kd'] > 0
    assert model.tapped.embedding == 'head:input[0][-1]'
    raw = model.data_preprocessor(tiny.batch_of(), True)
    found = model.teachers[0].observe(raw['inputs']).scores
    network = model.teachers[0].model
    expected = network.head(network.extract_feat(raw['inputs']))
    torch.testing.assert_close(found.logits[:, 0], expected)
    assert not model.tapped.adapter.can_average


def test_retriever_learns_from_a_classifier(tmp_path: Path) -> None:
    teacher = dict(name='t', model=ARCFACE, checkpoint=tiny.checkpoint(tmp_path, ARCFACE, seed=3))
    hint = dict(student='image_encoder.0.layer3', teacher='backbone.layer3')
    methods = dict(kd=dict(type='SoftTarget'), hint=dict(type='Hint', pairs=[hint]))
    student = {**retriever(), 'data_preprocessor': tiny.preprocessor()}
    model = tiny.distiller(tmp_path, student=student, teachers=[teacher], methods=methods).train()
    losses = tiny.losses_of(model)
    assert losses['kd.loss_kd'] > 0 and losses['hint.loss_hint'] > 0


def test_loss_of_another_activation_during_training_is_refused(tmp_path: Path) -> None:
    """MMPretrain's SwitchRecipeHook replaces the loss of the head between epochs."""
    model = distiller(tmp_path, tiny.classifier())
    switch = {
        'softmax': dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=C),
        'sigmoid': dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='multi_label'),
    }
    losses = {n: ROOT_MODELS.build(dict(one, _scope_='mmpretrain')) for n, one in switch.items()}
    model.head.loss_module = losses['softmax']
    assert tiny.losses_of(model)['kd.loss_kd'] > 0
    model.head.loss_module = losses['sigmoid']
    with raises_config_error('student', 'LabelSmoothLoss', 'sigmoid', 'softmax', fix='taps'):
        tiny.losses_of(model)


@ROOT_MODELS.register_module(force=True)
class LabelHead(ClsHead):
    """A head of a user whose training output depends on the label."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(loss=dict(type='CrossEntropyLoss'), topk=(1,))
        self.num_classes = num_classes
        self.fc = nn.Linear(in_channels, num_classes)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        return feats[-1]

    def forward(self, feats: tuple[Tensor, ...], label: Tensor | None = None) -> Tensor:
        return self.fc(self.pre_logits(feats))


def test_unknown_head_that_receives_the_label_is_refused_by_name(tmp_path: Path) -> None:
    config = classifier(type='LabelHead')
    with raises_config_error('student', ANY, 'LabelHead', 'label', fix='score reader'):
        distiller(tmp_path, config)
    hint = dict(type='Hint', pairs=[dict(student='backbone.layer2', teacher='backbone.layer2')])
    assert tiny.losses_of(distiller(tmp_path, config, hint=hint))['hint.loss_hint'] > 0


def test_several_tasks_are_distilled_by_taps_and_their_scores_refused(tmp_path: Path) -> None:
    raw = tiny.batch_of(4)
    raw['data_samples'] = []
    for index in range(4):
        sample = MultiTaskDataSample()
        sample.set_field(DataSample().set_gt_label(index), 'a')
        sample.set_field(DataSample().set_gt_label(index % 2), 'b')
        raw['data_samples'].append(sample)
    relation = dict(type='RelationMethod', loss=dict(type='DistanceLoss'), tap='head.task_heads.a')
    hint = dict(type='Hint', pairs=[dict(student='backbone.layer2', teacher='backbone.layer2')])
    losses = tiny.losses_of(distiller(tmp_path, TASKS, hint=hint, relation=relation), raw)
    assert losses['hint.loss_hint'] > 0 and losses['relation.loss_relation'] > 0
    with raises_config_error('student', 'dict', 'MultiTaskHead', fix='taps'):
        distiller(tmp_path, TASKS)


def test_both_branches_of_conformer_are_added_as_in_its_predictions() -> None:
    head = ConformerHead(num_classes=C, in_channels=[4, 6])
    outputs = head(([torch.randn(2, 4), torch.randn(2, 6)],))
    [logits] = find_score_reader(head).read(head, outputs)
    assert torch.equal(logits, outputs[0] + outputs[1])


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def test_output_with_logits_is_read_as_huggingface_returns_it(tmp_path: Path) -> None:
    model = distiller(tmp_path, tiny.classifier())
    for network in (model.student, model.teachers[0].model):
        network.head.register_forward_hook(lambda *args: Output(args[2]), prepend=True)
    model.student.head._get_loss = lambda output, *_, **__: dict(loss=output.logits.sum())
    assert tiny.losses_of(model)['kd.loss_kd'] > 0


def test_embedding_is_the_last_map_of_the_backbone(tmp_path: Path) -> None:
    teachers = tiny.teachers(tmp_path)
    losses = []
    for tap in (None, 'backbone[-1]'):
        torch.manual_seed(0)
        amtml = dict(type='AMTMLKD', hint_weight=0.0, embedding_tap=tap)
        model = tiny.distiller(tmp_path, teachers=teachers, methods=dict(amtml=amtml))
        assert model.tapped.embedding == (None if tap else 'backbone[-1]')
        losses.append({k: float(v.detach()) for k, v in tiny.losses_of(model).items()})
    assert losses[0] == losses[1]


@pytest.mark.filterwarnings('ignore:MMPretrain cannot train')
@pytest.mark.parametrize(
    ('backbone', 'head', 'embedding'),
    [
        (dict(type='LeNet5', num_classes=C), dict(type='ClsHead'), 'backbone[-1]'),
        (
            dict(
                type='DistilledVisionTransformer',
                arch=dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=8),
                img_size=16,
                patch_size=8,
            ),
            dict(type='DeiTClsHead', in_channels=8),
            'backbone[-1][-1]',
        ),
        (
            dict(
                type='MlpMixer',
                arch=dict(embed_dims=12, num_layers=1, tokens_mlp_dims=8, channels_mlp_dims=8),
                img_size=32,
                patch_size=8,
            ),
            dict(in_channels=12),
            'backbone[-1]',
        ),
    ],
    ids=['lenet', 'deit', 'mixer'],
)
def test_embedding_of_other_backbones_is_found(
    backbone: dict[str, Any], head: dict[str, Any], embedding: str, tmp_path: Path
) -> None:
    neck = None if backbone['type'] != 'MlpMixer' else dict(type='GlobalAveragePooling', dim=1)
    config = dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=neck,
        head=head if head.get('type') == 'ClsHead' else {**LINEAR, **head},
    )
    model = distiller(tmp_path, config, amtml=dict(type='AMTMLKD', hint_weight=0.0))
    assert model.tapped.embedding == embedding


def test_module_that_is_called_embedding_can_be_tapped(tmp_path: Path) -> None:
    config = tiny.classifier()
    model = distiller(tmp_path, config)
    model.student.embedding = nn.Identity()
    assert model.tapped.parse(['embedding'], 'key')['embedding'].path == 'embedding'


@MODELS.register_module()
class EmbeddingHead(LinearClsHead):
    """Returns embeddings in tensor mode, as MMDet's heads for the ReID of persons do."""

    def forward(self, feats: Any) -> Tensor:
        return self.pre_logits(feats)


def test_head_that_returns_no_score_for_each_of_its_classes_is_refused(tmp_path: Path) -> None:
    config = classifier(type='EmbeddingHead')
    with raises_config_error('student', (2, 16), 'EmbeddingHead', '4 classes', fix='score reader'):
        distiller(tmp_path, config)
    hint = dict(type='Hint', pairs=[dict(student='backbone[-1]', teacher='backbone[-1]')])
    assert tiny.losses_of(distiller(tmp_path, config, hint=hint))['hint.loss_hint'] > 0
