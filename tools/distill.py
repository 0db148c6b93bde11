r"""Write a config that distils teachers into a student.

    python tools/distill.py mmpretrain::resnet/resnet18_8xb16_cifar10.py \
        --teacher mmpretrain::resnet/resnet50_8xb16_cifar10.py resnet50.pth --method kd

Then train it with tools/train.py. An installed package has the same as the command `mmkd distill`.
"""

from mmkd_plugin.recipes.cli import run_or_explain

if __name__ == '__main__':
    run_or_explain()
