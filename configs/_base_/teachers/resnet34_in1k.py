# ResNet-34 as a teacher, with the weights that MMPretrain publishes, and its paraphraser.
teacher = dict(
    name='resnet34',
    model='mmpretrain::resnet/resnet34_8xb32_in1k.py',
    checkpoint='https://download.openmmlab.com/mmclassification/v0/resnet/'
    'resnet34_8xb32_in1k_20210831-f257d4e6.pth',
)
teacher_map = 'backbone.layer4'
paraphraser = '{{$MMKD_WORK_DIR:work_dirs}}/paraphraser_resnet34_8xb32-3e_in1k/epoch_3.pth'
