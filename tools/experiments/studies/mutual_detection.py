question = 'Do two detectors learn more from each other than each by itself?'
about = """
Data and detectors: those of `detection`. Two students with different random weights are trained
from scratch in one run, on the same batches, for 1,000 iterations. The metric is the mean of the
two; a and b are the detectors. IE-DML runs in alternating order on P3 and P4. It chooses its
weights of inheritance/of exploration among three candidates by the mean's validation mAP, on a seed
that is not reported. A student alone in the time of IE-DML, about 1,500 iterations, is `alone_1500`
of `detection`.
"""
metric = 'mean/coco/bbox_mAP'
scale = 100
columns = dict(a='a/coco/bbox_mAP', b='b/coco/bbox_mAP')
baseline = 'alone'
seeds = list(range(5))
tune_seeds = [100]

config = '../../../configs/digit_scenes/ie_dml_gfl_r18.py'
options = {
    'train_cfg.val_interval': 100000,
    'custom_hooks': [],
    'default_hooks.logger.interval': 1000,
}

_alone = {
    'model.methods': dict(_delete_=True, dml=dict(type='SoftTarget', loss_weight=0.0)),
    'model.order': 'simultaneous',
}


def _pair(inherit: float, explore: float) -> dict:
    return dict(inherit_weight=inherit, explore_weight=explore)


arms = {
    'same_iterations/alone': dict(about='each by itself', options=_alone),
    'ie_dml': dict(
        about="IE-DML: each other's factors, one after the other",
        grid={
            'model.methods.ie': {
                '6/1': _pair(6.0, 1.0),
                '20/1': _pair(20.0, 1.0),
                '60/1': _pair(60.0, 1.0),
            }
        },
    ),
}
