# A specialist: ResNet-8, twice as wide, trained on all images of 0-4 and on 6% of the others. The
# images are distorted anew each time.
_base_ = 'student_alone.py'

model = dict(backbone=dict(base_channels=16), head=dict(in_channels=64))
train_dataloader = dict(dataset=dict(fresh=True, specialty=[0, 1, 2, 3, 4], rest_fraction=0.06))
optim_wrapper = dict(optimizer=dict(lr=0.1, weight_decay=5e-4))
train_cfg = dict(max_epochs=50, val_interval=50)
