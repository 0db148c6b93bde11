_base_ = '_networks.py'

question = 'Does exploring add anything to inheriting, and either to soft targets?'
about = """
Data: DistortedMNIST, one fixed view of 2,500 training images, 1,250 for validation, 1,250 for the
test. Student: ResNet-8 with 19,810 parameters. Teacher: ResNet-14, twice as wide, trained once on
fresh distortions. Its paraphraser (factor rate 0.5) is trained once on the student's images. The
seeds of the study are the student's. All methods use the last stage of both networks.

Each arm with a teacher chooses among three candidates by validation accuracy on a seed that is not
reported: the weights of its losses (of inheritance/of exploration), or the temperature. All arms
have a weight decay of 5e-3, the choice of labels alone on two seeds in `adaptive_teachers`.
**by_itself**: a method beside the labels, which have weight 1. **with_kd**: the same beside soft
targets of weight 0.9, at a temperature of 4, and labels of weight 0.1. **controls**: `ie_ft` of the
first table with its choice and one change.
"""
metric = 'accuracy/top1'
baseline = dict(by_itself='alone', with_kd='kd', controls='ie_ft')
seeds = list(range(10))
tune_seeds = [100]

config = '../../../configs/_base_/distorted_mnist.py'
_epochs = 12
options = {
    'train_cfg': dict(max_epochs=_epochs, val_interval=_epochs),
    'default_hooks.logger.interval': 1000,
}


_student = _base_._resnet8
_root = '{{$MMKD_WORK_DIR:work_dirs}}'
_teacher = dict(
    name='resnet14',
    model=_base_._resnet14_wide,
    checkpoint=_root + '/inherit_explore_teacher/epoch_50.pth',
)
_last_epoch_only = dict(interval=50, save_optimizer=False, save_param_scheduler=False)
prepare = dict(
    inherit_explore_teacher=dict(
        config=config,
        options={
            'model': _teacher['model'],
            'train_dataloader.dataset.fresh': True,
            'randomness.seed': 0,
            'optim_wrapper.optimizer': dict(lr=0.1, weight_decay=5e-4),
            'train_cfg': dict(max_epochs=50, val_interval=50),
            'default_hooks.checkpoint': _last_epoch_only,
        },
    ),
    inherit_explore_paraphraser=dict(
        config=config,
        options={
            'model': dict(
                type='mmkd_plugin.ParaphraserTrainer',
                teacher=_teacher,
                tap='backbone.layer3',
                paraphraser=dict(factor_rate=0.5),
            ),
            'randomness.seed': 0,
            'optim_wrapper.optimizer': dict(lr=0.1, weight_decay=5e-4),
            'train_cfg': dict(max_epochs=30, val_interval=30),
            'default_hooks.checkpoint': {**_last_epoch_only, 'interval': 30},
        },
    ),
)

# The methods. A weight is set in every key that a method has for it.
_maps = dict(student='backbone.layer3', teacher='backbone.layer3')
_factors = dict(**_maps, checkpoint=_root + '/inherit_explore_paraphraser/epoch_30.pth')
_before_relu = dict(
    student='backbone.layer3.0.relu2:input',
    teacher='backbone.layer3.1.relu2:input',
    norm='backbone.layer3.1.bn2',
)


def _pair(inherit: float, explore: float) -> dict:
    return dict(inherit_weight=inherit, explore_weight=explore)


# Each tries three weights by itself, and a quarter of these beside soft targets.
_methods = dict(
    hint=('FitNets: regress the map', dict(type='Hint', pairs=[_maps]), [4.0, 16.0, 64.0]),
    at=('attention transfer', dict(type='AttentionTransfer', pairs=[_maps]), [40.0, 120.0, 400.0]),
    ft=('factor transfer', dict(type='FactorTransfer', pairs=[_factors]), [200.0, 600.0, 2000.0]),
    od=('overhaul', dict(type='Overhaul', pairs=[_before_relu]), [2.0, 6.0, 20.0]),
    ie_at=(
        'attention: half inherits, half explores',
        dict(type='IEKD', knowledge='attention', pairs=[_maps]),
        [_pair(120.0, 12.0), _pair(120.0, 40.0), _pair(400.0, 40.0)],
    ),
    ie_ft=(
        'factors: half inherits, half explores',
        dict(type='IEKD', pairs=[_factors]),
        [_pair(200.0, 200.0), _pair(600.0, 200.0), _pair(600.0, 60.0)],
    ),
    ie_od=(
        'overhaul: half inherits, half explores',
        dict(type='IEKD', knowledge='overhaul', pairs=[_before_relu]),
        [_pair(6.0, 20.0), _pair(6.0, 60.0), _pair(20.0, 60.0)],
    ),
)
_kd = dict(type='SoftTarget', temperature=4.0, loss_weight=0.9)


def _distiller(task_weight: float, **methods: dict) -> dict:
    return {
        'model': dict(
            type='mmkd_plugin.Distiller',
            student=_student,
            teachers=[_teacher],
            methods=methods,
            task_weight=task_weight,
        )
    }


def _grid(values: list, share: float) -> dict:
    if not isinstance(values[0], dict):
        return {'model.methods.feature.loss_weight': [share * value for value in values]}
    pairs = [{name: share * value for name, value in pair.items()} for pair in values]
    return {
        'model.methods.feature': {
            '/'.join(f'{value:g}' for value in pair.values()): pair for pair in pairs
        }
    }


arms = {
    'alone': dict(about='labels alone', options={'model': _student}),
    'by_itself/kd': dict(
        about='soft targets',
        options=_distiller(0.1, kd=_kd),
        grid={'model.methods.kd.temperature': [2.0, 4.0, 8.0]},
    ),
}
for _name, (_about, _method, _values) in _methods.items():
    arms[f'by_itself/{_name}'] = dict(
        about=_about, options=_distiller(1.0, feature=_method), grid=_grid(_values, share=1.0)
    )
arms['with_kd/kd'] = dict(about='soft targets', options=_distiller(0.1, kd=_kd))
for _name, (_about, _method, _values) in _methods.items():
    arms[f'with_kd/{_name}'] = dict(
        about=f'soft targets, and {_about}',
        options=_distiller(0.1, kd=_kd, feature=_method),
        grid=_grid(_values, share=0.25),
    )
_changes = dict(
    ie_ft=('factors: half inherits, half explores', dict()),
    no_exploration=('the other half is left alone', dict(explore_weight=0.0)),
    no_inheritance=('one half explores, the other is left alone', dict(inherit_weight=0.0)),
    toward=('both halves inherit', dict(explore_direction='toward')),
    halves=('split into first and second half', dict(split=dict(mode='halves'))),
    from_student=(
        'away from the half that inherited, not from the teacher',
        dict(explore_target='student'),
    ),
)
for _name, (_about, _change) in _changes.items():
    arms[f'controls/{_name}'] = dict(
        about=_about,
        options=_distiller(1.0, feature=_methods['ie_ft'][1]),
        override={'model.methods.feature': _change},
        choice_of='by_itself/ie_ft',
    )
