_base_ = '_networks.py'

question = 'When do weights that adapt to each image beat the mean of the teachers?'
about = """
Data: DistortedMNIST, one fixed view of 2,500 training images, 1,250 for validation, 1,250 for the
test. Student: ResNet-8 with 19,810 parameters. Teachers: ResNet-8 twice as wide, 77,104 parameters,
trained once on fresh distortions. The seeds of the study are the student's. **specialists**: each
was trained on all images of five classes and 6% of the others. **equals**: the same network three
times, trained on all classes from three seeds.

Soft targets have weight 0.9 and labels 0.1. Each arm with a teacher chooses among two candidates
(`single` among the three teachers) by validation accuracy, on a seed that is not reported. All arms
have the weight decay that labels alone chose on two such seeds, 5e-3 over 2e-3. The arms `no_…` are
`amtml` with its choice and without one part.
"""
metric = 'accuracy/top1'
baseline = 'mean'
seeds = list(range(10))
tune_seeds = [100]

config = '../../../configs/_base_/distorted_mnist.py'
_epochs = 12
options = {
    'train_cfg': dict(max_epochs=_epochs, val_interval=_epochs),
    'default_hooks.logger.interval': 1000,
    # Decay would pull learned teacher weights to uniform ones.
    'optim_wrapper.paramwise_cfg': dict(custom_keys=dict(weighting=dict(decay_mult=0.0))),
}


# The teachers. A specialist has half of the images, and twice the epochs.
_own_data = dict(
    specialist_01234=(100, dict(specialty=[0, 1, 2, 3, 4], rest_fraction=0.06)),
    specialist_01789=(100, dict(specialty=[0, 1, 7, 8, 9], rest_fraction=0.06)),
    specialist_34567=(100, dict(specialty=[3, 4, 5, 6, 7], rest_fraction=0.06)),
    equal_0=(50, dict()),
    equal_1=(50, dict()),
    equal_2=(50, dict()),
)
prepare = {
    name: dict(
        config=config,
        options={
            'model': _base_._resnet8_wide,
            'train_dataloader.dataset': dict(fresh=True, **own),
            'randomness.seed': seed,
            'optim_wrapper.optimizer': dict(lr=0.1, weight_decay=5e-4),
            'train_cfg': dict(max_epochs=epochs, val_interval=epochs),
            'default_hooks.checkpoint': dict(
                interval=epochs, save_optimizer=False, save_param_scheduler=False
            ),
        },
    )
    for seed, (name, (epochs, own)) in enumerate(_own_data.items())
}
_teachers = {
    setting: [
        dict(
            name=name,
            model=_base_._resnet8_wide,
            checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/' + f'{name}/epoch_{epochs}.pth',
        )
        for name, (epochs, _) in _own_data.items()
        if name.startswith(prefix)
    ]
    for setting, prefix in dict(specialists='specialist', equals='equal').items()
}


# The arms.
def _distiller(teachers: list, hooks: tuple = (), **method: object) -> dict:
    return {
        'model': dict(
            type='mmkd_plugin.Distiller',
            student=_base_._resnet8,
            teachers=teachers,
            methods=dict(kd=method),
            task_weight=0.1,
        ),
        'custom_hooks': [dict(type=hook) for hook in hooks],
    }


_temperature = {'model.methods.kd.temperature': [4.0, 8.0]}
_mean = dict(type='SoftTarget', temperature=4.0, loss_weight=0.9)
_amtml = dict(type='AMTMLKD', kd_weight=0.9)
_soft_only = dict(angle_weight=0.0, hint_weight=0.0, **_amtml)
_latent = dict(weighting=dict(type='LatentTeacherWeighting'))
_whole = dict(
    hooks=('mmkd_plugin.EvaluateTeachers',),
    objective='label',
    student_groups=['backbone.layer1', 'backbone.layer2', 'backbone.layer3'],
    teacher_taps='backbone.layer3',
    **_amtml,
)
_methods = dict(
    mean=('soft targets: the mean of the teachers', _mean),
    random=(
        'a random weighting of each image: the control',
        dict(weighting=dict(type='RandomTeacherWeighting'), **_soft_only),
    ),
    confidence=(
        'CA-MKD: less weight for a larger loss',
        dict(weighting=dict(type='ConfidenceTeacherWeighting'), **_soft_only),
    ),
    entropy=(
        'EBKD: more weight for a more confident teacher',
        dict(weighting=dict(type='EntropyTeacherWeighting'), **_soft_only),
    ),
    latent_paper=(
        "AMTML-KD's weights, label-free as in the paper",
        dict(objective='paper', **_latent, **_soft_only),
    ),
    latent_label=(
        "AMTML-KD's weights, learned from the labels",
        dict(objective='label', **_latent, **_soft_only),
    ),
    amtml=('whole AMTML-KD: these weights, angle loss, hints', {**_latent, **_whole}),
)
_parts = dict(
    no_adaptive=(
        'amtml with the mean of the teachers',
        dict(weighting=dict(type='UniformTeacherWeighting')),
    ),
    no_soft_target=('amtml without soft targets', dict(kd_weight=0.0)),
    no_angle=('amtml without the angle loss', dict(angle_weight=0.0)),
    no_hints=('amtml without hints', dict(hint_weight=0.0)),
)
arms = dict(
    alone=dict(
        about='labels alone',
        options={'model': _base_._resnet8},
    )
)
for _setting, _three in _teachers.items():
    arms[f'{_setting}/single'] = dict(
        about='soft targets: one teacher',
        options=_distiller(_three[:1], **_mean),
        grid={'model.teachers': {_teacher['name']: [_teacher] for _teacher in _three}},
    )
    for _name, (_about, _method) in _methods.items():
        arms[f'{_setting}/{_name}'] = dict(
            about=_about, options=_distiller(_three, **_method), grid=_temperature
        )
    for _name, (_about, _change) in _parts.items():
        arms[f'{_setting}/{_name}'] = dict(
            about=_about,
            options=_distiller(_three, **{**_latent, **_whole, **_change}),
            choice_of=f'{_setting}/amtml',
        )
