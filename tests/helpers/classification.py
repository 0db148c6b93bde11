"""The smallest real runs: ResNet-8 of 4 channels in MMPretrain's classifier, on 8x8 images."""

import copy
import itertools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import DATASETS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.loading.safe_load import runner_checkpoints_allowed
from mmkd_plugin.models.distillers import Distiller
from mmkd_plugin.outputs import ClassScores, NetworkOutput

with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of the hosts, about themselves
    import mmpretrain.models  # noqa: F401
    from mmpretrain.structures import DataSample

CLASSES = 4
_RUNS = itertools.count()


def preprocessor() -> dict[str, Any]:
    """A new dict each time, because mmpretrain writes into the dict that it builds from."""
    return dict(type='ClsDataPreprocessor', num_classes=CLASSES, mean=[120.0] * 3, std=[60.0] * 3)


# Data


@DATASETS.register_module(force=True)
class TinyImages(Dataset):
    """Noise with one bright quarter for each class, as uint8 (3, 8, 8), with or without labels."""

    def __init__(self, length: int = 16, labels: bool = True, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = labels
        self.images = torch.randint(
            0, 128, (length, 3, 8, 8), generator=generator, dtype=torch.uint8
        )
        for index, image in enumerate(self.images):
            row, column = divmod(index % CLASSES, 2)
            image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 100
        self.metainfo = {'classes': tuple('abcd')}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = DataSample()
        if self.labels:
            sample.set_gt_label(index % CLASSES)
        return dict(inputs=self.images[index].clone(), data_samples=sample)


def batch_of(count: int = 8, labels: bool = True) -> dict[str, Any]:
    """Return a raw batch, as the data loader collates it."""
    data = TinyImages(count, labels)
    items = [data[index] for index in range(count)]
    return dict(
        inputs=[item['inputs'] for item in items],
        data_samples=[item['data_samples'] for item in items],
    )


# Networks


def classifier(
    depth: int = 8, classes: int = CLASSES, base_channels: int = 4, **extra: Any
) -> dict[str, Any]:
    """Return the config of a stock classifier on our backbone."""
    return dict(
        type='ImageClassifier',
        backbone=dict(type='mmkd_plugin.CifarResNet', depth=depth, base_channels=base_channels),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=classes,
            in_channels=4 * base_channels,
            loss=dict(type='CrossEntropyLoss'),
            topk=(1,),
        ),
        **copy.deepcopy(extra),
    )


def network(config: Any, seed: int = 0) -> nn.Module:
    """Build a network whose statistics and scores differ from those of other seeds."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_network(
            network_config(config, 'network', data_preprocessor=preprocessor()), 'network'
        )
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight)
    return model


def checkpoint(folder: Path, config: Any = None, seed: int = 0) -> str:
    """Save such a network; return the path."""
    path = folder / f'network{seed}_{next(_RUNS)}.pth'
    torch.save(dict(state_dict=network(config or classifier(), seed).state_dict()), path)
    return str(path)


# Distillers


def teachers(folder: Path, count: int = 2, **extra: Any) -> list[dict[str, Any]]:
    """Return teachers t0, t1, … of 6 channels, with weights of their own."""
    config = classifier(base_channels=6)
    return [
        dict(
            name=f't{index}',
            model=config,
            checkpoint=checkpoint(folder, config, seed=index + 1),
            **extra,
        )
        for index in range(count)
    ]


def amtml(**changes: Any) -> dict[str, Any]:
    """Return a config of AMTML-KD with all its parts for these networks."""
    parts = dict(
        type='AMTMLKD',
        student_groups=['backbone.layer1', 'backbone.layer2', 'backbone.layer3'],
        teacher_taps='backbone.layer3',
        mapping=[2, 1],
    )
    return {**parts, **changes}


def distiller_config(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return a config: a student learns the mean of two teachers, unless changed."""
    config = dict(
        type='mmkd_plugin.Distiller', student=classifier(), methods=dict(kd=dict(type='SoftTarget'))
    )
    if 'teachers' not in changes:
        config['teachers'] = teachers(folder)
    return {**config, 'data_preprocessor': preprocessor(), **changes}


def distiller(folder: Path, **changes: Any) -> Distiller:
    """Build :func:`distiller_config`."""
    return ROOT_MODELS.build(distiller_config(folder, **changes))


def mutual_config(*names: str, **changes: Any) -> dict[str, Any]:
    """Return a config of deep mutual learning, unless changed.

    Args:
        names: Names of the peers, which differ in depth; a and b by default.
        changes: Changes to the config.
    """
    peers = [
        dict(name=name, model=classifier(depth=8 + 6 * (index % 2)))
        for index, name in enumerate(names or 'ab')
    ]
    config = dict(
        type='mmkd_plugin.MutualDistiller',
        peers=peers,
        methods=dict(dml=dict(type='SoftTarget', temperature=1.0)),
    )
    return {**config, 'data_preprocessor': preprocessor(), **changes}


def inherit_explore(**changes: Any) -> dict[str, Any]:
    """Return methods: IE-KD between the peers' last maps, with learning paraphrasers."""
    pairs = [dict(student='backbone.layer3', teacher='backbone.layer3')]
    return dict(ie={**dict(type='IEKD', pairs=pairs), **changes})


def peer_optimizers(**changes: Any) -> dict[str, Any]:
    """Return one optimizer config that all peers share."""
    optimizer = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-3)
    return dict(constructor='mmkd_plugin.PeerOptimWrappers', optimizer=optimizer, **changes)


def losses_of(model: nn.Module, raw: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Return the losses of one raw batch in training."""
    data = model.data_preprocessor(raw or batch_of(), True)
    return model(**data, mode='loss')


# Runs


class _ResumableRunner(Runner):
    """A Runner that reads its own checkpoints, as those of the tools do."""

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        with runner_checkpoints_allowed():
            return super().load_checkpoint(*args, **kwargs)


def _copied(model: Any) -> Any:
    """Return a copy of a config: frameworks write into what they build from."""
    return copy.deepcopy(model) if isinstance(model, Mapping) else model


def runner(
    model: Any, folder: Path, iters: int = 2, batch: int = 8, dataset: Any = None, **changes: Any
) -> Runner:
    """Return a Runner that trains ``iters`` steps and writes a checkpoint at the last."""
    # MMEngine sleeps for two seconds when the data of a run by iterations end, so they never do.
    by_epoch = changes.get('train_cfg', {}).get('by_epoch', False)
    loader = dict(
        batch_size=batch,
        num_workers=0,
        dataset=dataset or dict(type='TinyImages'),
        sampler=dict(type='DefaultSampler', shuffle=True)
        if by_epoch
        else dict(type='InfiniteSampler'),
    )
    settings = dict(
        train_dataloader=loader,
        train_cfg=dict(by_epoch=False, max_iters=iters),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-3)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=iters, by_epoch=False),
            logger=dict(type='LoggerHook', interval=1),
        ),
        default_scope='mmpretrain',
        experiment_name=f'run{next(_RUNS)}',
        log_level='WARNING',
        randomness=dict(seed=3),
    )
    return _ResumableRunner(_copied(model), str(folder), **{**settings, **changes})


def validation(batch: int = 8, **changes: Any) -> dict[str, Any]:
    """Return settings of a Runner that validates by accuracy on other images."""
    loader = dict(
        batch_size=batch,
        num_workers=0,
        dataset=dict(type='TinyImages', seed=1),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    settings = dict(
        val_dataloader=loader, val_evaluator=dict(type='Accuracy', topk=(1,)), val_cfg=dict()
    )
    return {**settings, **changes}


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the state dict."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def parameters_of(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters of a model under their names in checkpoints."""
    state = model.state_dict(keep_vars=True)
    return [(name, value) for name, value in state.items() if isinstance(value, nn.Parameter)]


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that differ in any bit; NaN equals NaN."""
    assert one.keys() == other.keys()
    return [name for name in one if not identical(one[name], other[name])]


def identical(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal to the last bit; NaN equals NaN."""
    same = (one == other) | (one.isnan() & other.isnan())
    return one.shape == other.shape and bool(same.all())


# Methods without networks


def output(logits: Tensor | None = None, **features: Tensor) -> NetworkOutput:
    """Return outputs of a classifier: logits (N, C), and features under plain names."""
    return NetworkOutput(None if logits is None else ClassScores.of_images(logits), features)


def built(
    method: Any,
    student: NetworkOutput,
    teachers: Sequence[NetworkOutput],
    frozen: bool = True,
    network: nn.Module | None = None,
) -> Any:
    """Return the method, built for the shapes of these outputs.

    Args:
        method: The method.
        student: Outputs of the student.
        teachers: Outputs of each teacher.
        frozen: Whether the teachers are frozen; peers are not.
        network: The network of every teacher, if the method reads its layers.
    """
    known = dict(sha256='0' * 64, checkpoint='t.pth') if frozen else {}
    probes = [
        TeacherProbe(f'teachers[{n}]', one, network or nn.Identity(), **known)
        for n, one in enumerate(teachers)
    ]
    method.requests(len(teachers))
    method.build(Probe('student', student), probes)
    return method
