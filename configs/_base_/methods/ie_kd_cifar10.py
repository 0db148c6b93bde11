# The seven methods of IE-KD's table. A file in pairs/ gives the maps that they compare.
methods = dict(
    # As in the authors' configs. The labels' weight is 0.05.
    kd=dict(type='SoftTarget', temperature=20.0, loss_weight=0.95),
    at=dict(type='AttentionTransfer', loss_weight=1000.0),
    ft=dict(type='FactorTransfer', loss_weight=500.0),
    od=dict(type='Overhaul', loss_weight=1.0),
    # The paper gives both weights for factors alone. For the others inheritance has the weight of
    # the base method.
    ie_at=dict(type='IEKD', knowledge='attention', inherit_weight=1000.0, explore_weight=50.0),
    ie_ft=dict(type='IEKD', knowledge='factor', inherit_weight=50.0, explore_weight=50.0),
    ie_od=dict(type='IEKD', knowledge='overhaul', inherit_weight=1.0, explore_weight=50.0),
)
