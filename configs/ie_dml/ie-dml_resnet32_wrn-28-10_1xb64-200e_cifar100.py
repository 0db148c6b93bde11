_base_ = ['../dml/dml_resnet32_wrn-28-10_1xb64-200e_cifar100.py', '../_base_/methods/ie_dml.py']

model = dict(methods=dict(_delete_=True, ie=_base_.ie))
