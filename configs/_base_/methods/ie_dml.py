# IE-DML between two peers on their last maps. The paraphrasers are trained in the same run.
ie = dict(type='IEKD', pairs=[dict(student='backbone', teacher='backbone')])
