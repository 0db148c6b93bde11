question = (
    'What does distilling a detector give, at the same number of iterations and in the same time?'
)
about = """
Data: DigitScenes, 4,000 training scenes, 400 for validation, 400 for the test. Student: GFL on an
eighth of ResNet-18's width, 0.24 million parameters, 1,000 iterations of 16 scenes. Teachers: GFL
on ResNet-18 and on ResNet-34, four and three times as wide, each trained once for 1,500 iterations.
Paraphrasers: one for P3 and one for P4 of the first teacher. The seeds of the study are the
student's.

The methods with one teacher take the first. `hint`, `ft` and `ie` use P3 and P4. `kd` and `mean`
use class scores. `amtml` uses these and the teachers' P4. Each method chooses among three
candidates by validation mAP on a seed that is not reported; `mean` takes the choice of `kd`.

**same_iterations** compares with the student alone after as many iterations. The other two tables
compare with the student alone after more iterations. 1,500 take less time than any method. 2,000
take more time than the methods with one teacher and less than those with two. The column *s a run*
includes validation and test. The time of teachers and paraphrasers is not counted.
"""
metric = 'coco/bbox_mAP'
scale = 100
baseline = dict(
    same_iterations='alone', time_of_one_teacher='alone_1500', time_of_two_teachers='alone_2000'
)
seeds = list(range(5))
tune_seeds = [100]

_here = '../../../configs/digit_scenes/'
config = _here + 'student_gfl_r18.py'
options = {
    'train_cfg.val_interval': 100000,
    'custom_hooks': [],
    'default_hooks.logger.interval': 1000,
    'optim_wrapper.optimizer.lr': 2e-3,  # not tuned
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

_levels = [
    dict(
        student=tap,
        teacher=tap,
        checkpoint='{{$MMKD_WORK_DIR:work_dirs}}' + f'/paraphraser_gfl_r18_{level}/iter_300.pth',
    )
    for tap, level in (('neck[0]', 'p3'), ('neck[1]', 'p4'))
]
_maps = [dict(student=pair['student'], teacher=pair['teacher']) for pair in _levels]


def _one_teacher(**methods: dict) -> dict:
    return dict(
        config=_here + 'ie_kd_gfl_r18.py', options={'model.methods': dict(_delete_=True, **methods)}
    )


_kd = dict(type='SoftTarget', temperature=1.0)
arms = {
    'same_iterations/alone': dict(about='labels alone, 1,000 iterations'),
    'time_of_one_teacher/alone_1500': dict(
        about='labels alone, 1,500 iterations', options={'train_cfg.max_iters': 1500}
    ),
    'time_of_two_teachers/alone_2000': dict(
        about='labels alone, 2,000 iterations', options={'train_cfg.max_iters': 2000}
    ),
    'kd': dict(
        about='soft targets',
        **_one_teacher(kd=_kd),
        grid={'model.methods.kd.loss_weight': [0.3, 1.0, 3.0]},
    ),
    'hint': dict(
        about='FitNets: regress two levels of the pyramid',
        **_one_teacher(hint=dict(type='Hint', pairs=_maps)),
        grid={'model.methods.hint.loss_weight': [0.05, 0.2, 0.8]},
    ),
    'ft': dict(
        about='factor transfer',
        **_one_teacher(ft=dict(type='FactorTransfer', pairs=_levels)),
        grid={'model.methods.ft.loss_weight': [20.0, 60.0, 200.0]},
    ),
    'ie': dict(
        about='IE-KD: half inherits factors, half explores',
        config=_here + 'ie_kd_gfl_r18.py',
        grid={
            'model.methods.ie': {
                f'{inherit:g}/{explore:g}': dict(inherit_weight=inherit, explore_weight=explore)
                for inherit, explore in ((20.0, 2.5), (60.0, 2.5), (60.0, 15.0))
            }
        },
    ),
    'mean': dict(
        about='soft targets, mean of two teachers',
        config=_here + 'amtml_kd_gfl_r18.py',
        options={'model.methods': dict(_delete_=True, kd=_kd)},
        choice_of='kd',
    ),
    'amtml': dict(
        about='AMTML-KD: targets of two teachers mixed for each image, angles, hints',
        config=_here + 'amtml_kd_gfl_r18.py',
        options={'model.methods.amtml.mapping': [1, 0]},
        grid={
            'model.methods.amtml': {
                f'{kd:g}/{angle:g}/{hint:g}': dict(
                    kd_weight=kd, angle_weight=angle, hint_weight=hint
                )
                for kd, angle, hint in ((0.3, 0.1, 0.1), (1.0, 0.1, 0.1), (3.0, 0.1, 0.1))
            }
        },
    ),
}
