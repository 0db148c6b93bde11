_base_ = '_networks.py'

question = 'What can a shallow network mimic that it cannot learn from labels?'
about = """
Data: DistortedMNIST, two fixed views of 2,500 training images, 1,250 for validation, 1,250 for the
test. Student: `ShallowMimicNet`, one convolution (8 channels, 5x5), 4x4 pooling, a linear
bottleneck of 64 units and a hidden layer of 1,024 units, 102,106 parameters. Teacher: ResNet-14,
trained once on fresh distortions for 50 epochs. The seeds of the study are the student's.

`labels` and `logits` stand in every table: 780 steps of 64 images on the labels alone, or on the
teacher's logits alone. No distilled student has a label. **width** changes the hidden layer, and
adds the probabilities as targets. **bottleneck** leaves the linear layer out: with as many
parameters, or with as many hidden units. **epochs** trains 2 and 4 times as long. **teacher** has
teachers that were trained for fewer epochs; `itself` is the accuracy of a teacher, the same for all
seeds. **unlabelled** has 300 labelled images and a teacher that was trained on these alone. Its
student has the 300 images, or all 2,500 without labels, for about 780 steps.

Each arm chooses among four candidates by validation accuracy, on a seed that is not reported:
AdamW's learning rate, 4e-3 or 1e-2, times its weight decay, 0.01 or 0.3. The arms of **teacher**
have the choice of `logits`. AdamW does not depend on the scale of a loss, so no arm has a weight to
choose. The outputs of the teachers are stored.
"""
# Planned from single runs, in CPU seconds of one thread beside other programs: 11 s a run of
# 780 steps on labels, 15 s on a teacher's outputs, 4 s of both before and after the steps.
#   report   10 seeds x (7 x 11 + 14 x 15 + 18 + 26 + 32 + 48 + 4 x 5) s   4,310 s
#   tune     4 candidates x (7 x 11 + 12 x 15 + 18 + 26 + 32 + 48) s       1,524 s
#   prepare  four teachers (12, 33, 110 and 110 s), five stores (6 s)        295 s
# Together 1.7 hours of one core.
metric = 'accuracy/top1'
baseline = dict(
    width='labels', bottleneck='logits', epochs='labels', teacher='logits', unlabelled='labels_300'
)
seeds = list(range(10))
tune_seeds = [100]

config = '../../../configs/_base_/distorted_mnist.py'
_root = '{{$MMKD_WORK_DIR:work_dirs}}/'
_images = 2500
_views = 2
_few = 300  # labelled images of the last table: the first of each class, in turn
_rows_of_few = [view * _images + image for view in range(_views) for image in range(_few)]


def _length(epochs: int) -> dict:
    warm = max(1, epochs // 10)
    return {
        'train_cfg': dict(max_epochs=epochs, val_interval=1000),
        'param_scheduler': [
            dict(type='LinearLR', start_factor=0.04, end=warm, convert_to_iter_based=True),
            dict(type='CosineAnnealingLR', begin=warm, convert_to_iter_based=True),
        ],
    }


_epochs = 10  # of 78 steps
options = {
    'train_dataloader.dataset.views': _views,
    **_length(_epochs),
    'optim_wrapper.optimizer': dict(_delete_=True, type='AdamW', lr=4e-3, weight_decay=0.01),
    'default_hooks.logger.interval': 1000,
}


# Teachers and their stores. A store is of one teacher and one set of images.
_trained = {'5': (5, _images), '15': (15, _images), '50': (50, _images), 'few': (488, _few)}
_checkpoints = {
    name: f'{_root}shallow_teacher_{name}/epoch_{epochs}.pth'
    for name, (epochs, _) in _trained.items()
}
_stores = {'5': '5', '15': '15', '50': '50', 'few': 'few', 'few_all': 'few'}
prepare = {
    f'shallow_teacher_{name}': dict(
        config=config,
        options={
            'model': _base_._resnet14_wide,
            'train_dataloader.dataset': dict(fresh=True, indices=images),
            'randomness.seed': 0,
            'optim_wrapper.optimizer': dict(lr=0.1, weight_decay=5e-4),
            **_length(epochs),
            'default_hooks.checkpoint': dict(
                interval=epochs, save_optimizer=False, save_param_scheduler=False
            ),
        },
    )
    for name, (epochs, images) in _trained.items()
}


# Students.
def _shallow(hidden: int = 1024, bottleneck: int | None = 64) -> dict:
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='mmkd_plugin.ShallowMimicNet',
            in_channels=1,
            input_size=28,
            conv_channels=8,
            pool_size=4,
            pool_stride=4,
            bottleneck_channels=bottleneck,
            hidden_channels=hidden,
        ),
        head=dict(
            type='LinearClsHead',
            num_classes=10,
            in_channels=hidden,
            loss=dict(type='CrossEntropyLoss'),
        ),
    )


def _transfer_set(store: str) -> dict:
    return dict(
        dataset=dict(
            _delete_=True,
            type='mmkd_plugin.ReplayedDataset',
            views=1,
            dataset=dict(
                type='mmkd_plugin.DistortedMNIST',
                split='train',
                views=_views,
                labels=False,
                indices=_rows_of_few if store == 'few' else None,
                pipeline=[dict(type='PackInputs')],
            ),
        ),
        sampler=dict(_delete_=True, type='mmkd_plugin.ReplaySampler', shuffle=True),
    )


_methods = dict(
    logits=dict(type='LogitMimic'), probabilities=dict(type='SoftTarget', temperature=1.0)
)


def _student(target: str, store: str = '50', **network: int | None) -> dict:
    student = _shallow(**network)
    if target == 'labels':
        return {'model': student}
    teacher = dict(
        name='resnet14',
        model=_base_._resnet14_wide,
        checkpoint=_checkpoints[_stores[store]],
        replay=dict(path=f'{_root}shallow_store_{store}/outputs'),
    )
    return {
        'model': dict(
            type='mmkd_plugin.Distiller',
            student=student,
            teachers=[teacher],
            methods=dict(mimic=_methods[target]),
            task_weight=0,
        ),
        'custom_hooks': [],
        'train_dataloader': _transfer_set(store),
    }


for _store in _stores:  # one epoch fills a store
    prepare[f'shallow_store_{_store}'] = dict(
        config=config,
        options={
            **_student('logits', _store),
            'train_dataloader': dict(_transfer_set(_store), drop_last=False),
            'train_cfg': dict(max_epochs=1, val_interval=1000),
            'param_scheduler': [],
        },
    )


# Arms.
_grid = {
    'optim_wrapper.optimizer.lr': [4e-3, 1e-2],
    'optim_wrapper.optimizer.weight_decay': [0.01, 0.3],
}
_targets = dict(labels='labels', logits="the teacher's logits", probabilities='probabilities')


def _arm(about: str, arm_options: dict) -> dict:
    return dict(about=about, options=arm_options, grid=_grid)


def _itself(name: str, about: str) -> dict:
    return dict(
        about=about,
        options={
            'model': _base_._resnet14_wide,
            'load_from': _checkpoints[name],
            'train_cfg': dict(max_epochs=0, val_interval=1),
            'param_scheduler': [],
        },
    )


arms = {
    target: _arm(f'{_targets[target]}, 102,106 parameters, 780 steps', _student(target))
    for target in ('labels', 'logits')
}
for _hidden, _parameters in ((64, 30_106), (256, 44_506), (1024, 102_106), (4096, 332_506)):
    for _target, _about in _targets.items():
        if _hidden != 1024 or _target == 'probabilities':
            arms[f'width/{_target}_{_hidden}'] = _arm(
                f'{_about}, {_parameters:,} parameters', _student(_target, hidden=_hidden)
            )
for _name, _hidden, _parameters in (('parameters', 252, 101_774), ('units', 1024, 412_890)):
    for _target in ('labels', 'logits'):
        arms[f'bottleneck/{_target}_none_same_{_name}'] = _arm(
            f'{_targets[_target]}, no bottleneck: {_hidden:,} units, {_parameters:,} parameters',
            _student(_target, hidden=_hidden, bottleneck=None),
        )
for _factor in (2, 4):
    for _target in ('labels', 'logits'):
        arms[f'epochs/{_target}_{_factor}x'] = _arm(
            f'{_targets[_target]}, {780 * _factor:,} steps',
            {**_student(_target), **_length(_factor * _epochs)},
        )
for _name in ('5', '15'):
    arms[f'teacher/logits_of_{_name}'] = dict(
        about=f'logits of a teacher of {_name} epochs',
        options=_student('logits', _name),
        choice_of='logits',
    )
for _name in ('5', '15', '50'):
    arms[f'teacher/itself_{_name}'] = _itself(_name, f'teacher of {_name} epochs')
arms['unlabelled/itself'] = _itself('few', 'teacher of 300 labelled images')
_few_epochs = _length(87)  # of 9 steps
arms['unlabelled/labels_300'] = _arm(
    'labels of 300 images',
    {**_student('labels'), 'train_dataloader.dataset.indices': _rows_of_few, **_few_epochs},
)
arms['unlabelled/logits_300'] = _arm(
    'logits of this teacher, on these images', {**_student('logits', 'few'), **_few_epochs}
)
arms['unlabelled/logits_2500'] = _arm(
    'logits of this teacher, on all 2,500 images', _student('logits', 'few_all')
)
