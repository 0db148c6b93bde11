# IE-DML: half of each one's last map inherits the other's factor, half explores what it lacks; the paraphrasers learn along.
_base_ = 'dml.py'

pairs = [dict(student='backbone.layer3', teacher='backbone.layer3')]
# Weights that validation chose in the study mutual_learning: at 50, as for a finished teacher, two beginners agree before they
# know anything.
model = dict(
    methods=dict(
        _delete_=True, ie=dict(type='IEKD', pairs=pairs, inherit_weight=15.0, explore_weight=5.0)
    )
)
