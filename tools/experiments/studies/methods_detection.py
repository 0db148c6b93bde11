_base_ = '_scenes.py'

question = 'Which method should a detector start with?'
about = """
Data: DigitScenes, 4,000 training scenes, 400 for validation, 400 for the test. Student: GFL on an
eighth of ResNet-18's width, 0.24 million parameters, 1,000 iterations of 16 scenes. Teachers: GFL
on ResNet-18 and on ResNet-34, four and three times as wide, each trained once for 1,500 iterations.
`amtml` has both, the other methods the first. The seeds of the study are the student's.

Methods on maps use P3 and P4. Each arm chooses among three candidates by validation mAP, on a seed
that is not reported: labels alone its learning rate, the methods their weights at that rate. A
first pass with larger weights ended at the lowest of them, so the candidates were moved down once.
`bckd`, `ld` and `crosskd` read the teacher at every location, so they run it in each step. The
other students read their teachers' outputs from stores, which were full before.

**same_iterations** compares with labels alone after 1,000 iterations. **same_time** compares with
labels alone after 1,300: see *CPU s a run*. The time of the teachers, the paraphrasers and the
stores is not counted.
"""
metric = 'coco/bbox_mAP'
scale = 100
baseline = dict(same_iterations='alone', same_time='alone_1300')
seeds = list(range(5))
tune_seeds = [100]

_here = '../../../configs/digit_scenes/'
_root = '{{$MMKD_WORK_DIR:work_dirs}}/'
config = _here + 'student_gfl_r18.py'
options = {
    'train_cfg.val_interval': 100000,
    'custom_hooks': [],
    'default_hooks.logger.interval': 1000,
}
prepare = {
    name: dict(config=f'{_here}{name}.py')
    for name in (
        'teacher_gfl_r18',
        'teacher_gfl_r34',
        'paraphraser_gfl_r18_p3',
        'paraphraser_gfl_r18_p4',
    )
}

# The methods: number of teachers, config, key to tune ('' for several), values.
_maps = [dict(student=tap, teacher=tap) for tap in ('neck[0]', 'neck[1]')]
_factors = [
    dict(**pair, checkpoint=f'{_root}paraphraser_gfl_r18_{level}/iter_300.pth')
    for pair, level in zip(_maps, ('p3', 'p4'), strict=True)
]
_weight = 'loss_weight'
_methods = dict(
    kd=('soft targets', 1, dict(type='SoftTarget', temperature=1.0), _weight, [0.1, 0.3, 1.0]),
    bckd=(
        'BCKD: binary quality of scores, GIoU of boxes',
        1,
        dict(type='BCKD'),
        '',
        {
            f'{score:g}/{box:g}': dict(score_weight=score, box_weight=box)
            for score, box in ((0.15, 0.6), (0.5, 2.0), (1.0, 4.0))
        },
    ),
    ld=('LD: distributions of box sides', 1, dict(type='LD'), _weight, [0.008, 0.025, 0.08]),
    crosskd=(
        "CrossKD: the student's head continues in the teacher's",
        1,
        dict(type='CrossKD'),
        '',
        {
            f'{score:g}/{box:g}': dict(score_weight=score, box_weight=box)
            for score, box in ((0.1, 0.33), (0.3, 1.0), (1.0, 4.0))
        },
    ),
    hint=(
        'FitNets: regress the maps',
        1,
        dict(type='Hint', pairs=_maps, loss_weight=0.8),
        _weight,
        [0.05, 0.2, 0.8],
    ),
    at=(
        'attention transfer',
        1,
        dict(type='AttentionTransfer', pairs=_maps),
        _weight,
        [10.0, 30.0, 100.0],
    ),
    ft=(
        'factor transfer',
        1,
        dict(type='FactorTransfer', pairs=_factors, loss_weight=60.0),
        _weight,
        [4.0, 15.0, 60.0],
    ),
    ie=(
        'IE-KD: half inherits factors, half explores',
        1,
        dict(
            type='IEKD',
            pairs=_factors,
            inherit_weight=60.0,
            explore_weight=2.5,
            reduction='size_invariant',
        ),
        '',
        {
            f'{inherit:g}/{explore:g}': dict(inherit_weight=inherit, explore_weight=explore)
            for inherit, explore in ((4.0, 0.16), (15.0, 0.6), (60.0, 2.5))
        },
    ),
    pkd=('PKD: correlation of maps', 1, dict(type='PKD', pairs=_maps), _weight, [0.6, 2.0, 6.0]),
    cwd=(
        'CWD: where each channel is active',
        1,
        dict(type='CWD', pairs=_maps),
        _weight,
        [0.3, 1.0, 3.0],
    ),
    mgd=('MGD: generate the maps', 1, dict(type='MGD', pairs=_maps), _weight, [2e-7, 1e-6, 5e-6]),
    fgd=(
        'FGD: maps, by objects and attention',
        1,
        dict(type='FGD', pairs=_maps),
        '',
        {
            f'x{factor:g}': dict(
                foreground_weight=1e-3 * factor,
                background_weight=5e-4 * factor,
                attention_weight=1e-3 * factor,
                relation_weight=5e-6 * factor,
            )
            for factor in (0.01, 0.1, 1.0)
        },
    ),
    amtml=(
        'AMTML-KD of two teachers: mixed targets, angles, hints',
        2,
        dict(
            type='AMTMLKD',
            temperature=1.0,
            kd_weight=1.0,
            angle_weight=0.1,
            hint_weight=0.1,
            objective='label',
            embedding_tap='backbone[-1]',
            student_groups=['backbone[2]', 'backbone[3]'],
            teacher_taps='neck[1]',
            mapping=[1, 0],
        ),
        '',
        {
            f'x{factor:g}': dict(
                kd_weight=factor, angle_weight=0.1 * factor, hint_weight=0.1 * factor
            )
            for factor in (0.1, 0.3, 1.0)
        },
    ),
)
_live = ('bckd', 'ld', 'crosskd')  # a store keeps confident locations alone
_configs = {1: 'ie_kd_gfl_r18.py', 2: 'amtml_kd_gfl_r18.py'}


def _distilled(teachers: int, methods: dict, stored: bool) -> dict:
    options = {'model.methods': dict(_delete_=True, **methods)}
    if stored:
        options['train_dataloader'] = _base_._stored_scenes
        for number in range(teachers):
            path = f'{_root}methods_detection_stores_of_{teachers}/{number}'
            options[f'model.teachers.{number}.replay'] = dict(path=path)
    return options


# The 250 iterations of an epoch of all methods fill the stores.
for _count in _configs:
    _all = {
        name: config
        for name, (_, count, config, _, _) in _methods.items()
        if count == _count and name not in _live
    }
    prepare[f'methods_detection_stores_of_{_count}'] = dict(
        config=_here + _configs[_count],
        options={
            **_distilled(_count, _all, stored=True),
            'custom_hooks': [],
            'train_cfg.max_iters': 250,
            'optim_wrapper.optimizer.lr': 2e-3,
            'default_hooks.checkpoint.interval': 250,
        },
    )

_rates = {'optim_wrapper.optimizer.lr': [16e-3, 32e-3, 64e-3]}
arms = {
    f'{setting}/{name}': dict(
        about=f'labels alone, {iterations:,} iterations',
        options={'train_cfg.max_iters': iterations},
        **({'grid': _rates} if name == 'alone' else {'choice_of': 'same_iterations/alone'}),
    )
    for setting, name, iterations in (
        ('same_iterations', 'alone', 1000),
        ('same_time', 'alone_1300', 1300),
    )
}
for _name, (_about, _count, _config, _key, _values) in _methods.items():
    arms[_name] = dict(
        about=_about,
        config=_here + _configs[_count],
        options=_distilled(_count, dict(method=_config), stored=_name not in _live),
        grid={f'model.methods.method{"." if _key else ""}{_key}': _values},
    )
