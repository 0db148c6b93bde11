custom_imports = dict(imports=['toys'])
model = dict(type='ToyLinear')
data = dict(batch_size=16, num_workers=0, collate_fn=dict(type='default_collate'))
train_dataloader = dict(
    dataset=dict(type='ToyClouds', split=0), sampler=dict(type='DefaultSampler', shuffle=True), **data
)
val_dataloader = dict(
    dataset=dict(type='ToyClouds', split=1), sampler=dict(type='DefaultSampler', shuffle=False), **data
)
test_dataloader = dict(
    dataset=dict(type='ToyClouds', split=2), sampler=dict(type='DefaultSampler', shuffle=False), **data
)
val_evaluator = test_evaluator = dict(type='ToyAccuracy')
train_cfg = dict(by_epoch=True, max_epochs=2)
val_cfg = test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
randomness = dict(seed=7)
