# IE-DML: half of each network's last map inherits the other's factor, the other half explores what
# this factor lacks. The paraphrasers are trained in the same run.
_base_ = 'dml.py'

pairs = [dict(student='backbone.layer3', teacher='backbone.layer3')]
# Validation chose these weights in the study mutual_learning. At 50, the weight for a trained
# teacher, two untrained networks become alike before they classify.
model = dict(
    methods=dict(
        _delete_=True, ie=dict(type='IEKD', pairs=pairs, inherit_weight=15.0, explore_weight=5.0)
    )
)
