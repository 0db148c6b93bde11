# AMTML-KD whose teacher weights learn from the labels: cross-entropy of the mixed teachers, apart from the student.
_base_ = 'amtml_paper.py'

model = dict(methods=dict(amtml=dict(objective='label')))
