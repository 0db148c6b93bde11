# AMTML-KD with the paper's settings, and soft targets with the same weight and temperature.
methods = dict(
    amtml=dict(
        type='AMTMLKD',
        temperature=5.0,
        kd_weight=0.7,
        student_groups=['backbone.layer1', 'backbone.layer2', 'backbone.layer3'],
        teacher_taps='backbone.layer3',
        mapping='best_high',
        objective='paper',
    ),
    kd=dict(type='SoftTarget', temperature=5.0, loss_weight=0.7, ensemble='arithmetic'),
)
