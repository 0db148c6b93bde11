# The seven distilled columns of the paper's table; a pair's file says which maps they compare.
methods = dict(
    # The authors' configs: labels weigh the rest, 0.05.
    kd=dict(type='SoftTarget', temperature=20.0, loss_weight=0.95),
    at=dict(type='AttentionTransfer', loss_weight=1000.0),
    ft=dict(type='FactorTransfer', loss_weight=500.0),
    od=dict(type='Overhaul', loss_weight=1.0),
    # For factors the paper gives both weights. For the others it gives none: what inherits has the weight of its base method.
    ie_at=dict(type='IEKD', knowledge='attention', inherit_weight=1000.0, explore_weight=50.0),
    ie_ft=dict(type='IEKD', knowledge='factor', inherit_weight=50.0, explore_weight=50.0),
    ie_od=dict(type='IEKD', knowledge='overhaul', inherit_weight=1.0, explore_weight=50.0),
)
custom_hooks = [
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=85.0),
    dict(type='mmkd_plugin.SaveStudent'),
]
