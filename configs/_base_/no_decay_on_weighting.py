# Options of optim_wrapper for a learned weighting: weight decay would make all teachers' weights
# equal.
no_decay_on_weighting = dict(
    paramwise_cfg=dict(custom_keys={'weighting': dict(decay_mult=0.0)}),
)
