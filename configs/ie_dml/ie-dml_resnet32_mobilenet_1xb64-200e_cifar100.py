_base_ = ['../dml/dml_resnet32_mobilenet_1xb64-200e_cifar100.py', '../_base_/methods/ie_dml.py']

model = dict(methods=dict(_delete_=True, ie=_base_.ie))
