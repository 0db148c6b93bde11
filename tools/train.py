"""Train one config, or several in a row as the stages of one job: teachers first, then the student.

    python tools/train.py configs/demo/dml.py
    python tools/train.py TEACHER.py PARAPHRASER.py STUDENT.py

A finished stage is skipped, an interrupted one is resumed. The folder of stage NAME.py is
<root>/NAME; <root> is $MMKD_WORK_DIR or work_dirs. A config that sets work_dir itself keeps it.
"""

from mmkd_plugin.recipes.train import main

if __name__ == '__main__':
    main(__doc__)
