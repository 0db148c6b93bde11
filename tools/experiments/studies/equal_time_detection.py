_base_ = '_scenes.py'

question = 'What does a stored teacher give a detector in the time of the student alone?'
about = """
Data, student and teacher are those of *detection*: DigitScenes, GFL on an eighth of ResNet-18's
width, and one teacher four times as wide. The weights are those that validation chose there. All
distilled students train for 1,000 iterations of 16 scenes. The scenes have no augmentation, so the
store is full after the first of four epochs.

- *read*: the store is full before the run. The five seeds share one filling, which adds a fifth of
  its time to each.
- *filled*: the time of filling the store is added to every run, as for a single run. The 250
  iterations that fill it took 52 s on a busy machine, with the student's own steps.

Other programs ran at the same time, so seconds vary. By CPU time, the median of a run was 143 s for
1,250 iterations alone, 185 s for 1,600, 133 s for `kd` and 128 s for `hint`.
"""
metric = 'coco/bbox_mAP'
scale = 100
baseline = dict(read='alone_1250', filled='alone_1600')
seeds = list(range(5))

_here = '../../../configs/digit_scenes/'
_root = '{{$MMKD_WORK_DIR:work_dirs}}/'
config = _here + 'student_gfl_r18.py'
options = {
    'train_cfg.val_interval': 100000,
    'custom_hooks': [],
    'default_hooks.logger.interval': 1000,
    'optim_wrapper.optimizer.lr': 2e-3,  # not tuned
}

_taps = ('neck[0]', 'neck[1]')
_methods = dict(
    kd=dict(type='SoftTarget', temperature=1.0),
    hint=dict(type='Hint', pairs=[dict(student=t, teacher=t) for t in _taps], loss_weight=0.8),
)


def _stored(**methods: dict) -> dict:
    return {
        'model.teachers.0.replay': dict(path=f'{_root}equal_time_detection_store/r18'),
        'model.methods': dict(_delete_=True, **methods),
        'train_dataloader': _base_._stored_scenes,
    }


prepare = dict(
    teacher_gfl_r18=dict(config=f'{_here}teacher_gfl_r18.py'),
    equal_time_detection_store=dict(  # its 250 iterations fill the store, in its folder
        config=_here + 'ie_kd_gfl_r18.py',
        options={
            **_stored(**_methods),
            'custom_hooks': [],
            'train_cfg.max_iters': 250,
            'optim_wrapper.optimizer.lr': 2e-3,
        },
    ),
)
arms = {
    f'{setting}/alone_{iterations}': dict(
        about=f'labels alone, {iterations:,} iterations',
        options={'train_cfg.max_iters': iterations},
    )
    for setting, iterations in dict(read=1250, filled=1600).items()
}
for _name, _about in dict(kd='soft targets', hint='FitNets: two levels of the pyramid').items():
    arms[_name] = dict(
        about=f'{_about}, stored teacher, 1,000 iterations',
        config=_here + 'ie_kd_gfl_r18.py',
        options=_stored(**{_name: _methods[_name]}),
    )
