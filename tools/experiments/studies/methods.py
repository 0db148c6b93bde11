_base_ = '_networks.py'

question = 'Which method should a classifier start with?'
about = """
Data: DistortedMNIST, one fixed view of 2,500 training images, 1,250 for validation, 1,250 for the
test. Student: ResNet-8 with 19,810 parameters. Teachers: ResNet-14, twice as wide, trained three
times on fresh distortions. `mean` and `amtml` have all three, the other methods the first. Its
paraphraser (factor rate 0.5) is trained once on the student's images. The seeds of the study are
the student's.

Each arm, labels alone too, chooses among three candidates by validation accuracy, on two seeds that
are not reported. Labels alone choose their weight decay; all other arms have 5e-3. The labels have
the weight of each method's paper: 0.1 beside soft targets (0.9, or more if standardised) and
logits, 1 beside the others. Methods on maps use the last stage. All distilled students train for 12
epochs and read their teachers' outputs from stores, which were full before.

**same_epochs** compares with labels alone after 12 epochs. **same_time** compares with labels alone
after 24 epochs, which compute about as long as 12 epochs of the slowest methods: see *CPU s a run*.
The other tables compare the methods with one of them. Other programs ran on the machine. The time
of the teachers, the paraphraser and the stores is not counted.
"""
metric = 'accuracy/top1'
baseline = dict(same_epochs='alone', same_time='alone_24', to_pkd='pkd', to_kd='kd', to_mean='mean')
seeds = list(range(10))
tune_seeds = [100, 101]

config = '../../../configs/_base_/distorted_mnist.py'
_epochs = 12
options = {
    'train_cfg': dict(max_epochs=_epochs, val_interval=100),
    'default_hooks.logger.interval': 1000,
    # Decay would pull learned teacher weights to uniform ones.
    'optim_wrapper.paramwise_cfg': dict(custom_keys={'.weighting.': dict(decay_mult=0.0)}),
}

_student = _base_._resnet8
_root = '{{$MMKD_WORK_DIR:work_dirs}}/'
_names = [f'methods_teacher_{number}' for number in range(3)]
_teachers = {
    count: [
        dict(
            name=name,
            model=_base_._resnet14_wide,
            checkpoint=f'{_root}{name}/epoch_50.pth',
            replay=dict(path=f'{_root}methods_stores_of_{count}/{name}'),
        )
        for name in _names[:count]
    ]
    for count in (1, 3)
}
_last_epoch_only = dict(save_optimizer=False, save_param_scheduler=False)
_optimizer = {'optim_wrapper.optimizer': dict(lr=0.1, weight_decay=5e-4)}
prepare = {
    name: dict(
        config=config,
        options={
            'model': _base_._resnet14_wide,
            'train_dataloader.dataset.fresh': True,
            'randomness.seed': seed,
            **_optimizer,
            'train_cfg': dict(max_epochs=50, val_interval=50),
            'default_hooks.checkpoint': dict(interval=50, **_last_epoch_only),
        },
    )
    for seed, name in enumerate(_names)
}
prepare['methods_paraphraser'] = dict(
    config=config,
    options={
        'model': dict(
            type='mmkd_plugin.ParaphraserTrainer',
            teacher=dict(
                name='methods_teacher_0',
                model=_base_._resnet14_wide,
                checkpoint=_teachers[1][0]['checkpoint'],
            ),
            tap='backbone.layer3',
            paraphraser=dict(factor_rate=0.5),
        ),
        'randomness.seed': 0,
        **_optimizer,
        'train_cfg': dict(max_epochs=30, val_interval=30),
        'default_hooks.checkpoint': dict(interval=30, **_last_epoch_only),
    },
)

# The methods: teachers, weight of the labels, config, key to tune, values.
_maps = dict(student='backbone.layer3', teacher='backbone.layer3')
_factors = dict(**_maps, checkpoint=f'{_root}methods_paraphraser/epoch_30.pth')
_before_relu = dict(
    student='backbone.layer3.0.relu2:input',
    teacher='backbone.layer3.1.relu2:input',
    norm='backbone.layer3.1.bn2',
)
_kd = dict(type='SoftTarget', temperature=4.0, loss_weight=0.9)
_amtml = dict(
    type='AMTMLKD',
    kd_weight=0.9,
    objective='label',
    student_groups=['backbone.layer1', 'backbone.layer2', 'backbone.layer3'],
    teacher_taps='backbone.layer3',
    mapping=[0, 1, 2],
)
_weight = 'loss_weight'
_methods = dict(
    kd=('soft targets', 1, 0.1, _kd, 'temperature', [2.0, 4.0, 8.0]),
    kd_standardized=(
        'soft targets of standardised logits',
        1,
        0.1,
        dict(type='SoftTarget', temperature=2.0, standardize=True),
        _weight,
        [1.0, 3.0, 9.0],
    ),
    logit=('logit mimicry', 1, 0.1, dict(type='LogitMimic'), _weight, [0.01, 0.03, 0.1]),
    dist=('DIST', 1, 1.0, dict(type='DIST', loss_weight=2.0), 'temperature', [1.0, 2.0, 4.0]),
    dkd=('DKD', 1, 1.0, dict(type='DKD', temperature=4.0), 'beta', [0.5, 2.0, 8.0]),
    nkd=('NKD', 1, 1.0, dict(type='NKD'), 'gamma', [0.5, 1.5, 4.5]),
    rkd=(
        'RKD: distances and angles between images',
        1,
        1.0,
        dict(type='RKD'),
        '',
        {
            f'{distance:g}/{angle:g}': dict(distance_weight=distance, angle_weight=angle)
            for distance, angle in ((5.0, 10.0), (25.0, 50.0), (100.0, 200.0))
        },
    ),
    hint=(
        'FitNets: regress the map',
        1,
        1.0,
        dict(type='Hint', pairs=[_maps]),
        _weight,
        [4.0, 16.0, 64.0],
    ),
    at=(
        'attention transfer',
        1,
        1.0,
        dict(type='AttentionTransfer', pairs=[_maps]),
        _weight,
        [40.0, 120.0, 400.0],
    ),
    ft=(
        'factor transfer',
        1,
        1.0,
        dict(type='FactorTransfer', pairs=[_factors]),
        _weight,
        [200.0, 600.0, 2000.0],
    ),
    od=('overhaul', 1, 1.0, dict(type='Overhaul', pairs=[_before_relu]), _weight, [2.0, 6.0, 20.0]),
    ie=(
        'IE-KD: half inherits factors, half explores',
        1,
        1.0,
        dict(type='IEKD', pairs=[_factors]),
        '',
        {
            f'{inherit:g}/{explore:g}': dict(inherit_weight=inherit, explore_weight=explore)
            for inherit, explore in ((200.0, 200.0), (600.0, 200.0), (600.0, 60.0))
        },
    ),
    pkd=(
        'PKD: correlation of maps',
        1,
        1.0,
        dict(type='PKD', pairs=[_maps]),
        _weight,
        [2.0, 6.0, 20.0],
    ),
    cwd=(
        'CWD: where each channel is active',
        1,
        1.0,
        dict(type='CWD', pairs=[_maps]),
        _weight,
        [10.0, 30.0, 100.0],
    ),
    mgd=(
        'MGD: generate the map',
        1,
        1.0,
        dict(type='MGD', pairs=[_maps]),
        _weight,
        [0.004, 0.016, 0.064],
    ),
    kd_hint=(
        'soft targets, and FitNets',
        1,
        0.1,
        [_kd, dict(type='Hint', pairs=[_maps])],
        _weight,
        [4.0, 16.0, 64.0],
    ),
    mean=('soft targets: the mean of three teachers', 3, 0.1, _kd, 'temperature', [2.0, 4.0, 8.0]),
    amtml=('whole AMTML-KD, three teachers', 3, 0.1, _amtml, 'temperature', [2.0, 4.0, 8.0]),
)


def _distiller(teachers: int, task_weight: float, methods: dict) -> dict:
    return {
        'model': dict(
            type='mmkd_plugin.Distiller',
            student=_student,
            teachers=_teachers[teachers],
            methods=methods,
            task_weight=task_weight,
        ),
        'custom_hooks': [],
        'train_dataloader': _base_._stored_views,
    }


# One epoch of all methods fills the stores.
for _count in _teachers:
    _all = {
        name: config
        for name, (_, count, _, config, _, _) in _methods.items()
        if count == _count and isinstance(config, dict)
    }
    prepare[f'methods_stores_of_{_count}'] = dict(
        config=config,
        options={
            **_distiller(_count, 0.1, _all),
            'train_cfg': dict(max_epochs=1, val_interval=1),
            'param_scheduler': [],
        },
    )

_decay = {'optim_wrapper.optimizer.weight_decay': [2e-3, 5e-3, 1e-2]}
arms = {
    f'{setting}/{name}': dict(
        about=f'labels alone, {epochs} epochs',
        options={'model': _student, 'train_cfg.max_epochs': epochs},
        **({'grid': _decay} if epochs == _epochs else {'choice_of': 'same_epochs/alone'}),
    )
    for setting, name, epochs in (
        ('same_epochs', 'alone', 12),
        ('same_time', 'alone_18', 18),
        ('same_time', 'alone_24', 24),
    )
}
for _name, (_about, _count, _task, _config, _key, _values) in _methods.items():
    _both = [_config] if isinstance(_config, dict) else _config
    _parts = {'method': _both[-1], **({'kd': _both[0]} if len(_both) > 1 else {})}
    arms[_name] = dict(
        about=_about,
        options=_distiller(_count, _task, _parts),
        grid={f'model.methods.method{"." if _key else ""}{_key}': _values},
    )
