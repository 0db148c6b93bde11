# IE-DML: half of each one's last map inherits the other's factor, half explores what it lacks; the paraphrasers learn along.
_base_ = 'dml.py'

pairs = [dict(student='backbone.layer3', teacher='backbone.layer3')]
model = dict(methods=dict(_delete_=True, ie=dict(type='IEKD', pairs=pairs)))
