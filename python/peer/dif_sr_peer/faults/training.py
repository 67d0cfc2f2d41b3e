"""Gradients, what is trained, and the optimizer."""

import torch

from .registry import attentions, everywhere, faults, learned_fusion, number, predictor, replace
from .scores import stream


@faults(common=("item_scores_detached",))
def detached(c):
    for name in ("item", "position", "attribute"):
        yield (
            f"{name}_scores_detached",
            f"scores of the {name} stream are detached, so that its queries and keys are not trained",
            stream([name], lambda scores: scores.detach()),
        )

    def method(name):
        return everywhere(attentions, name, lambda original, *arguments: original(*arguments).detach())

    yield "values_detached", "values are detached, so that their layer is not trained", method("values")
    yield (
        "probabilities_detached",
        "attention probabilities are detached, so that no score is trained",
        method("probabilities"),
    )

    text = "layers are fed detached, so that those before the last are not trained"
    detach = lambda original, x, *rest: original(x.detach(), *rest)
    yield "layer_input_detached", text, everywhere(lambda model: list(model.trm_encoder.layer)[1:], "forward", detach)


def named(model, *parts):
    return [p for name, p in model.named_parameters() if any(part in name for part in parts)]


@faults(common=("positions_frozen", "predictor_not_in_optimizer"))
def frozen(c):
    groups = {
        "items": ("the item embedding", ("item_embedding",)),
        "positions": ("the position embedding", ("position_embedding",)),
        "norms": ("LayerNorms", ("LayerNorm",)),
        "biases": ("biases", ("bias",)),
        "feed_forward": ("the feed-forward networks", ("dense_1", "dense_2")),
        "attribute_projections": ("query and key layers of the attributes", ("query_layers", "key_layers")),
        "encoder": ("the encoder", ("trm_encoder",)),
    }
    if learned_fusion(c):
        groups["fusion"] = "the fusion layers", ("fusion_layer",)
    if predictor(c):
        groups["predictor"] = "the attribute predictor", ("ap.",)

    def freeze(parts):
        def plant(model):
            for parameter in named(model, *parts):
                parameter.requires_grad_(False)

        return plant

    def keep_from_optimizer(parts):
        def plant(model):
            left_out = {id(p) for p in named(model, *parts)}
            replace(model, "trained", lambda original: [p for p in original() if id(p) not in left_out])

        return plant

    for name, (what, parts) in groups.items():
        verb = "is" if what.startswith("the ") and not what.endswith("s") else "are"
        yield f"{name}_frozen", f"{what} {verb} frozen: without gradient; in the reference trained", freeze(parts)
        text = f"{what} {verb} not given to the optimizer; in the reference trained"
        yield f"{name}_not_in_optimizer", text, keep_from_optimizer(parts)

    def only_last_layer(model):
        first = named(model, "trm_encoder.layer.0.")
        for parameter in first:
            parameter.requires_grad_(False)

    yield "first_layer_frozen", "the first layer is frozen: without gradient; in the reference trained", only_last_layer


def optimizer(make):
    """`make(model, parameters, learning rate)` in place of the reference's Adam."""

    def plant(model):
        replace(model, "optimizer", lambda _, lr, weight_decay=0.0: make(model, model.trained(), lr))

    return plant


@faults(common=("adamw", "l2_0_0001", "learning_rate_1e_4", "adam_eps_1e_6", "adam_beta2_0_98"))
def adam(c):
    """Adam, but other settings."""

    def with_settings(kind=torch.optim.Adam, **settings):
        return optimizer(lambda model, parameters, lr: kind(parameters, **({"lr": lr} | settings)))

    own = c["learning_rate"]
    right = "the reference trains with Adam at {lr}, betas 0.9 and 0.999, epsilon 1e-8, without weight decay"
    for lr in (1e-4, 3e-4, 5e-4, 2e-3, 5e-3, 1e-2):
        if lr != own:
            yield f"learning_rate_{number(lr)}", f"the learning rate is {lr:g}; {right}", with_settings(lr=lr)
    for beta2 in (0.95, 0.98, 0.99):
        text = f"Adam's second beta is {beta2:g}; {right}"
        yield f"adam_beta2_{number(beta2)}", text, with_settings(betas=(0.9, beta2))
    for beta1 in (0.5, 0.8):
        text = f"Adam's first beta is {beta1:g}; {right}"
        yield f"adam_beta1_{number(beta1)}", text, with_settings(betas=(beta1, 0.999))
    for eps in (1e-3, 1e-4, 1e-6, 1e-7, 1e-9, 1e-10):
        yield f"adam_eps_{number(eps)}", f"Adam's epsilon is {eps:g}; {right}", with_settings(eps=eps)
    for decay in (0.01, 1e-3, 1e-4, 1e-5, 1e-6):
        text = f"Adam has a weight decay of {decay:g}, added to the gradient (L2); {right}"
        yield f"l2_{number(decay)}", text, with_settings(weight_decay=decay)
    for decay in (0.1, 0.01, 1e-3, 1e-4):
        text = f"the optimizer is AdamW with a weight decay of {decay:g}; {right}"
        name = "adamw" if decay == 0.01 else f"adamw_{number(decay)}"
        yield name, text, with_settings(torch.optim.AdamW, weight_decay=decay)
    yield "amsgrad", f"Adam is its variant AMSGrad; {right}", with_settings(amsgrad=True)
    yield "maximized", f"the loss is maximized, not minimized; {right}", with_settings(maximize=True)

    def grouped(model, parameters, lr):
        plain = {id(p) for p in named(model, "bias", "LayerNorm")}
        decayed = [p for p in parameters if id(p) not in plain]
        rest = [p for p in parameters if id(p) in plain]
        return torch.optim.AdamW([{"params": decayed}, {"params": rest, "weight_decay": 0.0}], lr=lr, weight_decay=0.01)

    yield (
        "adamw_without_biases",
        f"the optimizer is AdamW with a weight decay of 0.01, biases and LayerNorms left out; {right}",
        optimizer(grouped),
    )


class OtherAdam(torch.optim.Optimizer):
    """Adam with its formula changed in one place."""

    def __init__(self, parameters, lr, correct=True, eps_in_root=False, eps_before_correction=False):
        super().__init__(parameters, {"lr": lr})
        self.correct, self.eps_in_root, self.eps_before_correction = correct, eps_in_root, eps_before_correction

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in [p for p in group["params"] if p.grad is not None]:
                state = self.state[p]
                step = state["step"] = state.get("step", 0) + 1
                first = state["first"] = state.get("first", torch.zeros_like(p)) * 0.9 + p.grad * 0.1
                second = state["second"] = state.get("second", torch.zeros_like(p)) * 0.999 + p.grad**2 * 0.001
                if self.correct and not self.eps_before_correction:
                    first, second = first / (1 - 0.9**step), second / (1 - 0.999**step)
                root = (second + 1e-8).sqrt() if self.eps_in_root else second.sqrt() + 1e-8
                if self.eps_before_correction:
                    first = first * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
                p -= group["lr"] * first / root


@faults(common=("sgd",))
def other_optimizer(c):
    o = torch.optim
    right = "the reference trains with Adam"
    kinds = {
        "sgd": ("SGD", lambda p, lr: o.SGD(p, lr=lr)),
        "sgd_momentum": ("SGD with a momentum of 0.9", lambda p, lr: o.SGD(p, lr=lr, momentum=0.9)),
        "nadam": ("NAdam", lambda p, lr: o.NAdam(p, lr=lr)),
        "radam": ("RAdam", lambda p, lr: o.RAdam(p, lr=lr)),
        "adagrad": ("Adagrad", lambda p, lr: o.Adagrad(p, lr=lr)),
        "rmsprop": ("RMSprop", lambda p, lr: o.RMSprop(p, lr=lr)),
    }
    for name, (title, make) in kinds.items():
        yield name, f"the optimizer is {title}; {right}", optimizer(lambda _, p, lr, make=make: make(p, lr))
    variants = {
        "adam_uncorrected": ("Adam lacks the correction of its moments' bias", {"correct": False}),
        "adam_eps_in_root": ("Adam's epsilon stands inside of the root", {"eps_in_root": True}),
        "adam_eps_before_correction": (
            "Adam's epsilon is added before the correction of the second moment's bias, as TensorFlow has it",
            {"eps_before_correction": True},
        ),
    }
    for name, (text, settings) in variants.items():
        yield name, text, optimizer(lambda _, p, lr, settings=settings: OtherAdam(p, lr, **settings))


@faults(common=("gradient_norm_clipped_1", "gradients_accumulate", "gradient_norm_clipped_5"))
def steps(c):
    def before_step(act):
        """`act(optimizer, number of the step from 1)` before each step."""

        def make(model, parameters, lr):
            adam = torch.optim.Adam(parameters, lr=lr)
            count = []

            def hook(*_):
                count.append(1)
                act(adam, len(count))

            adam.register_step_pre_hook(hook)
            return adam

        return optimizer(make)

    parameters = lambda adam: [p for group in adam.param_groups for p in group["params"]]
    right = "the reference takes them as they are"
    for norm in (0.5, 1.0, 5.0, 10.0):
        yield (
            f"gradient_norm_clipped_{number(norm)}",
            f"gradients are clipped to a norm of {norm:g}; {right}",
            before_step(lambda adam, _, norm=norm: torch.nn.utils.clip_grad_norm_(parameters(adam), norm)),
        )
    yield (
        "gradient_values_clipped_1",
        f"gradients are clipped to ±1, value by value; {right}",
        before_step(lambda adam, _: torch.nn.utils.clip_grad_value_(parameters(adam), 1.0)),
    )

    def set_rate(rate):
        def act(adam, step):
            for group in adam.param_groups:
                group["lr"] = rate(step)

        return before_step(act)

    own = c["learning_rate"]
    constant = "the reference keeps it at {lr}"
    for n in (10, 100):
        yield (
            f"warm_up_{n}",
            f"the learning rate warms up over {n} steps; {constant}",
            set_rate(lambda step, n=n: own * min(1, step / n)),
        )
    yield (
        "rate_halved_each_step",
        f"the learning rate is halved after each step; {constant}",
        set_rate(lambda step: own * 0.5 ** (step - 1)),
    )
    yield (
        "rate_decays",
        f"the learning rate decays by 1 % after each step; {constant}",
        set_rate(lambda step: own * 0.99 ** (step - 1)),
    )

    def accumulate(model, parameters, lr):
        adam = torch.optim.Adam(parameters, lr=lr)
        adam.zero_grad = lambda *_, **__: None
        return adam

    yield "gradients_accumulate", "gradients are not zeroed between steps", optimizer(accumulate)
