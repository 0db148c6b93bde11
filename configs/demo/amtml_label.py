# AMTML-KD. The teachers' weights are learned from labels: cross-entropy of the mixed teachers'
# probabilities.
_base_ = 'amtml_paper.py'

model = dict(methods=dict(amtml=dict(objective='label')))
