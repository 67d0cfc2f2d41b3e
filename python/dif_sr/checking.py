"""`check`: runs a model on a case, finds its parameters and stages, and holds what it computes to the case."""

import difflib
import re
from contextlib import ExitStack, nullcontext

import torch

from .judging import Departs, Error, Report, case_of, judge, required
from .dropout import DropoutSites, without_dropout
from .dump import Dump, Input, Method, Output
from .own import Own
from .parameters import Finder
from .stages import Stages
from .trace import Elements, Trace

STEPS = 5
# A message of PyTorch's that says that something is not computed in float64.
DTYPE = re.compile(r"dtype|scalar type|double|float64", re.IGNORECASE)


def check(model, loss, case="gate", **options) -> Report:
    """Raises `Departs`, an AssertionError, with the judge's report unless `model` is DIF-SR on `case`.

    `loss(batch)` is the training loss, a single number, of a `Batch`. Options:

    * `accept`: {fault, stage or key: reason}, deliberate deviations;
    * `require`: stages to ask for; "complete" is what the judge asks for by itself; "initial_values" and "dropout" hold a
      model that was just built, with its usual rates, to the reference's, too;
    * `scores(batch)`: scores of every item [B, V], for a model whose loss does not compute them;
    * `parameters`: golden name -> your name, or a function of {your name: tensor}: what shall not be found automatically;
    * `stages`: golden key -> `Output`, `Input` or `Method`: where a stage appears;
    * `optimizer(parameters)`: instead of Adam with the case's learning rate;
    * `dtype`: torch.float64, or torch.float32; else float64 if the model computes in it;
    * `show`: where to print what was mapped and, on a pass, the verdict; None: nowhere.

    The model is left as it was: its values, types, gradients and rates of dropout.
    """
    __tracebackhide__ = True
    report = examine(model, loss, case, **options)
    if not report.holds:
        raise Departs(report) from None
    if show := options.get("show", print):
        show(report.summary)
    return report


def examine(model, loss, case="gate", *, accept=None, require=None, dtype=None, show=print, **options) -> Report:
    """As `check`, but for the verdict: the report, whatever it says."""
    case, own = case_of(case), Own(model)
    say = show or (lambda _text: None)
    kinds = required(require) or ()
    dump = None
    if dtype in (None, torch.float64):
        try:
            dump = computed(own, loss, case, torch.float64, say, kinds, **options)
        except (RuntimeError, TypeError, ValueError) as error:
            if dtype is not None or not DTYPE.search(str(error)):
                raise
            first = str(error).strip().splitlines()[0]
            say(f"the model does not compute in float64 ({first}): held in float32, where small differences do not show")
    if dump is None:
        dump = computed(own, loss, case, dtype or torch.float32, say, kinds, **options)
    return judge(dump.tensors, case, require, accept, dump.metadata)


class NotInDouble(RuntimeError):
    """The model computes in float32 though all that it has is float64."""


def computed(own, loss, case, dtype, say, kinds, *, scores=None, parameters=None, stages=None, optimizer=None):
    """All that the model computes on the case, as a `Dump`."""
    if not callable(loss):
        raise Error(f"loss: expected a function of the batch that gives the training loss, found a {type(loss).__name__}")
    batch = case.batch(own.device)
    with torch.random.fork_rng(devices=[]), ExitStack() as outer:
        outer.enter_context(own.lent(dtype))
        run = Run(own, loss, case, batch, dtype)
        if "initial_values" in kinds:
            run.keep_initial()
        sites = run.dropout_sites()
        with without_dropout(own.modules):
            run.find_parameters(parameters or {})
            run.load()
            dump = run.compute(scores, stages or {}, optimizer)
        if "dropout" in kinds or any(site["rate"] > 0 for site in sites):
            dump.metadata["dropout_sites"] = sites
        for line in run.lines():
            say(line)
    return dump


class Run:
    """One model on one case, in one type."""

    def __init__(self, own, loss, case, batch, dtype):
        self.own, self.case, self.batch, self.dtype = own, case, batch, dtype
        self.tensors, self.elements = own.tensors, Elements(own.tensors)
        self.user_loss, self.initial = loss, None

    def loss(self):
        """The user's, held to be one number."""
        value = self.user_loss(self.batch)
        if not isinstance(value, torch.Tensor):
            raise Error(
                f"loss: expected a tensor of one number, found a {type(value).__name__}: return the total loss alone"
            )
        if value.numel() != 1:
            raise Error(
                f"loss: expected a tensor of one number, found the shape {list(value.shape)}: reduce it as in training"
            )
        return value.reshape(())

    def keep_initial(self):
        self.initial = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}

    def dropout_sites(self):
        with DropoutSites() as sites, torch.no_grad():
            self.loss()
        return sites.seen

    def find_parameters(self, given):
        settled = {}
        for name, where in given.items():
            settled[name] = self.given_ids(name, where)
        with Trace(self.tensors, self.elements) as trace:
            loss = self.loss()
        if not loss.requires_grad:
            raise Error("loss: expected one that depends on the model's parameters, found one without a gradient")
        if self.dtype == torch.float64 and single(trace.nodes):
            raise NotInDouble("it casts to float32, whatever the dtype of its parameters")
        self.found = Finder(self.case, self.elements, trace.nodes).run(settled)
        if "item_embedding.weight" not in self.found:
            shape = list(self.case.tensors["param.item_embedding.weight"].shape)
            raise Error(
                f"model: expected a table of shape {shape} for the items, found none: build it "
                "with the case's configuration (`Case(name).config`), or name the table in `parameters`"
            )

    def given_ids(self, name, where):
        """The elements that a user's map names: a function is asked with numbers in place of values."""
        shape = self.case.part("param.").get(name, None)
        if shape is None:
            raise Error(f"parameters: {self.case.name} has no `{name}`; it has {', '.join(self.case.part('param.'))}")
        if not (callable(where) or isinstance(where, str)):
            raise Error(f"parameters: `{name}`: expected a name or a function, found a {type(where).__name__}")
        ids, total = {own: self.elements.ids(own) for own in self.tensors}, self.elements.total
        order = -1 - torch.randperm(total, generator=torch.Generator().manual_seed(0))
        look = where if callable(where) else lambda own: own[where]
        try:
            # Again with other numbers, negative and in no order: a view has the same elements, arithmetic does not.
            found, again = look(ids), look({own: order[numbers] for own, numbers in ids.items()})
        except KeyError as missing:
            raise Error(f"parameters: `{name}`: the model has no tensor {missing}; it has {', '.join(ids)}") from None
        what = None
        if not isinstance(found, torch.Tensor):
            what = type(found).__name__
        elif found.shape != torch.Size(shape.shape):
            what = list(found.shape)
        elif (
            found.dtype != torch.int64
            or bool(((found < 0) | (found >= total)).any())
            or not torch.equal(order[found], again)
        ):
            what = "arithmetic"
        if what is not None:
            raise Error(
                f"parameters: `{name}`: expected a view of shape {list(shape.shape)}, found {what}: "
                "slice, transpose or reshape alone"
            )
        return found

    def load(self):
        """The case's parameters into the model."""
        golden = self.case.part("param.")
        for name, ids in self.found.items():
            self.elements.scatter(self.tensors, ids, torch.tensor(golden[name]))
        for tensor in self.tensors.values():
            tensor.grad = None

    def compute(self, scores, stages, optimizer):
        find = {name: lambda own, ids=ids: self.elements.gather(own, ids) for name, ids in self.found.items()}
        dump = Dump(self.tensors, find, stages)
        if self.initial is not None:
            for name, ids in self.found.items():
                dump.record(f"init.{name}", self.elements.gather(self.initial, ids))
        self.hold_stages(stages)
        dump.model = self.own.model if stages else self.tensors
        try:
            with dump.forward() if stages else nullcontext(), Trace(self.tensors, self.elements) as trace:
                total = self.loss()
        except RuntimeError as error:
            if str(error).startswith("never computed"):
                raise Error(f"stages: {error}") from None
            raise
        dump.model = self.tensors
        if scores:
            dump.record("out.scores", self.scores(scores))
        self.stages = Stages(self.case, trace.nodes, self.elements, self.found, self.dtype)
        for key, value in self.stages.run(total.detach(), dump.tensors).items():
            dump.record(key, value)
        dump.losses({"total": total})
        dump.determinism(self.loss)
        total.backward()
        for name in self.own.outside:
            self.tensors[name].grad = None  # nobody trains by it
        dump.gradients()
        dump.train(self.loss, self.optimizer(optimizer), STEPS)
        return dump

    def hold_stages(self, stages):
        """Whether a user's map of stages names what there is."""
        if stages and not isinstance(self.own.model, torch.nn.Module):
            raise Error("stages: expected a torch.nn.Module to hook, found a dictionary of tensors: leave them out")
        modules = dict(self.own.model.named_modules()) if stages else {}
        for key, stage in stages.items():
            if key not in self.case.tensors:
                near = difflib.get_close_matches(key, self.case.tensors, 1)
                raise Error(f"stages: {self.case.name} has no `{key}`" + (f": is `{near[0]}` meant?" if near else ""))
            if not isinstance(stage, (Input, Method, Output)):
                raise Error(f"stages: `{key}`: expected Output, Input or Method, found a {type(stage).__name__}")
            if stage.module not in modules:
                raise Error(f"stages: `{key}`: the model has no module `{stage.module}`")
            if isinstance(stage, Method) and not hasattr(modules[stage.module], stage.name):
                raise Error(f"stages: `{key}`: `{stage.module}` has no method `{stage.name}`")

    def scores(self, scores):
        with torch.no_grad():
            found = scores(self.batch)
        shape = self.case.tensors["out.scores"].shape
        if not isinstance(found, torch.Tensor) or found.numel() != shape[0] * shape[1]:
            what = list(found.shape) if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
            raise Error(f"scores: expected a tensor of shape {list(shape)}, found {what}")
        return found.reshape(shape)

    def optimizer(self, build):
        if build is None:
            return torch.optim.Adam(self.own.trained, lr=self.case.config["learning_rate"])
        optimizer = build(self.own.trained)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise Error(
                "optimizer: expected a function of the parameters that gives a torch.optim.Optimizer, "
                f"found a {type(optimizer).__name__}"
            )
        return optimizer

    def lines(self):
        """What was mapped, for people: layers and kinds that are mapped alike are one line."""
        yield f"{self.case.name} in {str(self.dtype)[len('torch.') :]}, on {self.own.device}"
        shown = {}
        for name, ids in self.found.items():
            shown.setdefault((starred(name), starred(self.elements.describe(ids))), name)
        width = max(len(golden) for golden, _ in shown)
        yield f"  {len(self.found)} of {len(self.case.part('param.'))} parameters found:"
        for golden, own in shown:
            yield f"    {golden:{width}}  {own}"
        lacking = [name for name in self.case.part("param.") if name not in self.found]
        used = self.elements.mask(self.found.values())
        extra = [name for name in self.tensors if not used[self.elements.ids(name)].any()]
        for title, names in (("not found in the model", lacking), ("only in the model", extra)):
            if names:
                yield f"  {title}: {', '.join(dict.fromkeys(map(starred, names)))}"
        found = self.stages
        for title, names in (
            ("stages found by their values", list(found.by_value)),
            ("by their role, for no value is right", found.by_role),
            ("not computed in a form that can be compared", found.absent),
        ):
            if names:
                yield f"  {title}: {', '.join(dict.fromkeys(map(starred, names)))}"


def starred(name):
    """With `*` for a layer's number and for `weight` or `bias`."""
    name = (
        re.sub(r"(?<![A-Za-z0-9:\[])\d+(?=\.)", "*", name, count=1)
        if not name.startswith(("ap.", "feature_embed"))
        else name
    )
    return re.sub(r"\.(weight|bias)\b", ".*", name)


def single(nodes):
    """Whether a matrix product or a softmax was computed in float32."""
    return any(
        node.op in ("mm", "bmm", "addmm", "_softmax", "native_layer_norm") and node.value.dtype == torch.float32
        for node in nodes
    )
