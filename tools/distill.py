"""Write a config that distils teachers into a student.

    python tools/distill.py STUDENT.py --teacher TEACHER.py CHECKPOINT --method kd

Then train it with tools/train.py. An installed package has the same as the command `mmkd distill`.
"""

from mmkd_plugin.recipes.cli import run_or_explain

if __name__ == '__main__':
    run_or_explain()
