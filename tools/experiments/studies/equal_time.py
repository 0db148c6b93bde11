_base_ = '_networks.py'

question = 'What do stored teachers give in the time of the student alone?'
about = """
Data, student, teachers and weights are those of *adaptive_teachers*, specialists, with the
temperature 8 that validation chose there. All distilled students train for 12 epochs. The training
images are one fixed view, so a store holds the outputs of a teacher after the first epoch.

- *read*: the stores are full before the run, as for the second of several seeds.
- *filled*: the time of filling three stores is added to every run, as for a single run. One epoch
  that fills them took at most 5 s, with the start of the program and a validation.

The student alone trains for so many epochs that its runs take at least as long, in the same load
of the machine: an epoch alone took 1.1 s while the stored arms were trained, 18 epochs 19 s. The
runs of 18 and more epochs in these tables came later, when the machine was quiet, and took 0.9 s
an epoch. Compare their seconds with each other only.
"""
metric = 'accuracy/top1'
baseline = dict(
    same_epochs='alone_12',
    mean_read='alone_18',
    mean_filled='alone_23',
    amtml_read='alone_25',
    amtml_filled='alone_30',
)
seeds = list(range(10))

config = '../../../configs/_base_/distorted_mnist.py'
options = {
    'train_cfg': dict(max_epochs=12, val_interval=100),
    'default_hooks.logger.interval': 1000,
    # Decay would pull learned teacher weights to uniform ones.
    'optim_wrapper.paramwise_cfg': dict(custom_keys=dict(weighting=dict(decay_mult=0.0))),
}

# The teachers, as in adaptive_teachers.
_own_data = dict(
    specialist_01234=[0, 1, 2, 3, 4],
    specialist_01789=[0, 1, 7, 8, 9],
    specialist_34567=[3, 4, 5, 6, 7],
)
prepare = {
    name: dict(
        config=config,
        options={
            'model': _base_._resnet8_wide,
            'train_dataloader.dataset': dict(fresh=True, specialty=classes, rest_fraction=0.06),
            'randomness.seed': seed,
            'optim_wrapper.optimizer': dict(lr=0.1, weight_decay=5e-4),
            'train_cfg': dict(max_epochs=100, val_interval=100),
            'default_hooks.checkpoint': dict(
                interval=100, save_optimizer=False, save_param_scheduler=False
            ),
        },
    )
    for seed, (name, classes) in enumerate(_own_data.items())
}
_root = '{{$MMKD_WORK_DIR:work_dirs}}/'
_teachers = [
    dict(name=name, model=_base_._resnet8_wide, checkpoint=f'{_root}{name}/epoch_100.pth')
    for name in _own_data
]
_stored = [
    dict(teacher, replay=dict(path=f'{_root}equal_time_stores/{teacher["name"]}'))
    for teacher in _teachers
]


def _distiller(teachers: list, **method: object) -> dict:
    return {
        'model': dict(
            type='mmkd_plugin.Distiller',
            student=_base_._resnet8,
            teachers=teachers,
            methods=dict(kd=method),
            task_weight=0.1,
        ),
        'custom_hooks': [],
    }


def _replayed(teachers: list, **method: object) -> dict:
    return {
        **_distiller(teachers, **method),
        'train_dataloader': _base_._stored_views,
    }


_mean = dict(type='SoftTarget', temperature=8.0, loss_weight=0.9)
_amtml = dict(
    type='AMTMLKD',
    kd_weight=0.9,
    temperature=8.0,
    weighting=dict(type='LatentTeacherWeighting'),
    objective='label',
    student_groups=['backbone.layer1', 'backbone.layer2', 'backbone.layer3'],
    teacher_taps='backbone.layer3',
    mapping=[0, 1, 2],
)
prepare['equal_time_stores'] = dict(  # its first epoch fills them, in its folder
    config=config,
    options={
        **_replayed(_stored, **_amtml),
        'train_cfg': dict(max_epochs=1, val_interval=1),
        'param_scheduler': [],
    },
)

_mean_read = dict(about='soft targets, stored teachers', options=_replayed(_stored, **_mean))
_amtml_read = dict(about='whole AMTML-KD, stored teachers', options=_replayed(_stored, **_amtml))
arms = {
    f'{setting}/alone_{epochs}': dict(
        about=f'labels alone, {epochs} epochs',
        options={'model': _base_._resnet8, 'train_cfg.max_epochs': epochs},
    )
    for setting, epochs in dict(
        same_epochs=12, mean_read=18, mean_filled=23, amtml_read=25, amtml_filled=30
    ).items()
}
arms['same_epochs/mean_no_store'] = dict(
    about='soft targets: the mean of the teachers', options=_distiller(_teachers, **_mean)
)
arms['same_epochs/amtml_no_store'] = dict(
    about='whole AMTML-KD', options=_distiller(_teachers, **_amtml)
)
arms['mean'] = _mean_read
arms['amtml'] = _amtml_read
