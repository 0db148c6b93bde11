# The teacher of IE-KD: ResNet-14, twice as wide as the student, trained on images that are
# distorted anew each time.
_base_ = 'student_alone.py'

model = dict(backbone=dict(depth=14, base_channels=16), head=dict(in_channels=64))
train_dataloader = dict(dataset=dict(fresh=True))
optim_wrapper = dict(optimizer=dict(lr=0.1, weight_decay=5e-4))
train_cfg = dict(max_epochs=50, val_interval=50)
