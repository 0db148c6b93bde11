# IE-DML: two students with different random initial weights, each the other's IE-KD teacher on P3
# and P4.
_base_ = 'student_gfl_r18.py'

model = dict(
    _delete_=True,
    type='mmkd_plugin.MutualDistiller',
    peers=[dict(name=name, model=_base_.model) for name in ('a', 'b')],
    methods=dict(
        ie=dict(
            type='IEKD',
            pairs=[dict(student=tap, teacher=tap) for tap in ('neck[0]', 'neck[1]')],
            inherit_weight=6.0,
            explore_weight=1.0,
            reduction='size_invariant',
        )
    ),
)
optim_wrapper = dict(
    constructor='mmkd_plugin.PeerOptimWrappers',
    optimizer=dict(lr=2e-3),  # that of the study mutual_detection; not tuned
)
model_wrapper_cfg = dict(type='mmkd_plugin.PeerDataParallel')
val_cfg = dict(type='mmkd_plugin.PeerValLoop')
test_cfg = dict(type='mmkd_plugin.PeerTestLoop')
custom_hooks = [dict(type='mmkd_plugin.SaveStudent')]
