"""Whatever is wrong with a command is one line that names the key, the value and the way out; nothing is run."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cl_bench.__main__ import main
from cl_bench.config.compose import compose

BIASED = ("bic", "wa", "ss_il", "lucir")
# the command, and what its one line must hold; FILES is a folder of damaged files, nothing else is in it
BAD = [
    # names of the groups' choices
    ("method=nosuch", "method=nosuch", "choose from agem, "),
    ("method=fintune", "did you mean 'finetune'?"),
    ("dataset=mnst", "dataset=mnst", "did you mean 'mnist'?"),
    ("scenario=clas_incremental", "scenario=clas_incremental", "did you mean 'class_incremental'?"),
    ("network=mpl", "network=mpl", "did you mean 'mlp'?"),
    ("trainer=defalt", "trainer=defalt", "did you mean 'default'?"),
    ("logger=wndb", "logger=wndb", "did you mean 'wandb'?"),
    ("optimizer=adm", "optimizer=adm", "did you mean 'adam'?"),
    ("experiment=foo", "experiment=foo", "split_mnist"),
    ("experiment=three_scenarios/sj", "experiment=three_scenarios/sj", "three_scenarios/si"),
    ("hydra/launcher=nosuch", "hydra/launcher=nosuch", "basic"),
    ("tuned=dgr-digts", "tuned=dgr-digts", "did you mean 'dgr-digits'?"),
    ("tuned/scenario=nosuch", "tuned/scenario=nosuch", "ewc-mnist-task_incremental"),
    ("hparams_search=strenght", "hparams_search=strenght", "did you mean 'strength'?"),
    ("method=dgr gan@method.gan=mpl", "gan=mpl", "did you mean 'mlp'?"),
    ("method=dgm generator@method.generator=mpl", "generator=mpl", "did you mean 'mlp'?"),
    ("method@foo=ewc", "method@foo", "Did you mean to override method?"),
    ("method=null", "method=null", "choose from"),
    ("method=[ewc,dgr]", "method=[ewc,dgr]", "no such method"),
    ("method=5", "method=5", "choose from"),
    ("method=[FALSE]", "method=[FALSE]", "no such method", "choose from"),
    ("'method=${seed}'", "method=${seed}", "choose from"),
    ("dataset=none", "dataset=none", "scenario=sequence"),
    # a name is not a path
    ("method=../../x", "method=../../x", "is a path, not a name"),
    ("method=../method/ewc", "method=../method/ewc", "is a path, not a name"),
    ("method=FILES/method/broken", "/method/broken: is a path, not a name"),
    ("experiment=three_scenarios/../split_mnist", "experiment=three_scenarios/../split_mnist", "is a path"),
    ("dataset=..", "dataset=..", "is a path"),
    ("hydra/launcher=../launcher/joblib", "hydra/launcher=../launcher/joblib", "is a path"),
    ("tuned=../tuned/dgr-digits", "tuned=../tuned/dgr-digits", "is a path"),
    ("method=dgr gan@method.gan=../gan/mlp", "../gan/mlp: is a path"),
    ("-m method=ewc,../../x", "method=../../x", "is a path"),
    ("--config-dir=FILES experiment=out", "../optimizer/sgd: is a path"),
    # pixels are normalized by the backbone
    ("dataset=mnist dataset.normalize=true network=pretrained", "dataset.normalize=true: network._target_="),
    (
        "dataset=npz dataset.path=x dataset.mean=[.5] features=efficientnet_lite0",
        "dataset.mean=[0.5]: with features=... the pre-trained network",
    ),
    # keys
    ("sed=1", "sed: no such key", "did you mean 'seed'?"),
    ("methd=ewc", "methd", "did you mean 'method'?"),
    ("lr=0.1", "lr: no such key", "did you mean 'optimizer.lr'?"),
    ("method=ewc method.strenght=1", "method.strenght", "did you mean 'method.strength'?"),
    ("method=finetune method.strength=1", "method.strength: no such key", "method has none"),
    ("method=dgr method.gan.n_critc=1", "method.gan.n_critc", "did you mean 'method.gan.n_critic'?"),
    ("method=dgr method.n_critic=1", "did you mean 'method.gan.n_critic'?"),
    ("dataset.sise=8", "dataset.sise", "did you mean 'dataset.size'?"),
    ("scenario.n_task=5", "scenario.n_task", "did you mean 'scenario.n_tasks'?"),
    ("network.hiden=[3]", "network.hiden", "did you mean 'network.hidden'?"),
    ("optimizer.rl=1", "optimizer.rl", "did you mean 'optimizer.lr'?"),
    ("trainer.epoch=1", "trainer.epoch", "did you mean 'trainer.epochs'?"),
    ("logger=wandb logger.projet=x", "logger.projet", "did you mean 'logger.project'?"),
    ("seed.x=1", "seed.x"),
    ("+foo=1", "foo: no such key", "choose from", "seed"),
    ("++method.foo=1", "method.foo: no such key"),
    ("method={_target_:os.system,command:ls}", "method"),
    ("~seed", "seed: needs a value"),
    ("~foo", "foo"),
    ("~dataset", "dataset: needs a choice", "digits"),
    ("trainer.callbacks={a:1}", "trainer.callbacks={a:1}: must be a list"),
    ("hydra.sweep=[1]", "hydra.sweep=[1]: must be keys"),
    # how an override is written
    ("method", "method: can't be read", "KEY=VALUE"),
    ("a=b=c", "a=b=c: can't be read"),
    ("method=[", "method=[: can't be read"),
    ("=3", "=3", "KEY=VALUE"),
    ("seed=0,1", "seed=0,1", "-m"),
    ("'seed=range(3)'", "seed=range(3)", "--multirun"),
    ("'seed=${nope}'", "seed", "nope"),
    ("-cfg job", "--cfg", "'fg'", "'job'"),
    ("--method=ewc", "--method=ewc", "--help"),
    # types
    ("seed=abc", "seed=abc", "integer"),
    ("seed=", "seed=", "integer"),
    ("resume=maybe", "resume=maybe", "boolean"),
    ("output_root=5", "output_root=5", "string"),
    ("method=ewc method.strength=abc", "method.strength=abc", "number"),
    ("method=dgr method.gan=5", "method.gan=5", "method.gan.KEY=VALUE"),
    ("scenario.kind=clas", "scenario.kind=clas", "'class', 'task' or 'domain'"),
    ("scenario.class_order=abc", "scenario.class_order=abc", "'fixed', 'random' or 'icarl'"),
    ("scenario=sequence scenario.datasets=digits", "scenario.datasets=digits", "list"),
    ("network.hidden=null", "network.hidden=null", "list"),
    ("trainer.accelerator=tpu", "trainer.accelerator=tpu", "'cpu'"),
    # ranges
    ("seed=-1", "seed=-1", "0"),
    (f"seed={10**30}", "seed=1000", "less than"),
    ("optimizer.lr=-1", "optimizer.lr=-1", "greater than 0"),
    ("method=ewc method.strength=nan", "method.strength=nan", "finite"),
    ("method=dgr method.generator_epochs=[1,2]", "method.generator_epochs=[1, 2]", "5 tasks"),
    ("network.hidden=[1000000000,2]", "network.hidden=[1000000000,2]: needs", "GB of memory"),
    ("network=dcgan network.depth=4", "network.depth=4", "choose 1 to 3"),
    ("network=resnet_gan dataset.size=3", "dataset.size=3", "choose 4 or more"),
    # what only makes sense together
    ("scenario.n_tasks=3", "scenario.n_tasks=3", "1, 2, 5, 10", "uneven"),
    ("scenario.n_tasks=11", "scenario.n_tasks=11", "1, 2, 5, 10"),
    ("scenario=task_incremental scenario.n_tasks=3", "scenario.n_tasks=3", "choose 1, 2, 5 (or scenario.uneven"),
    ("scenario=task_incremental scenario.n_tasks=null scenario.classes_per_task=3", "choose 2, 5, 10 (or"),
    ("scenario.train_mask=current scenario.n_tasks=11", "scenario.n_tasks=11", "choose 1, 2, 5"),
    ("scenario.n_tasks=null", "scenario.n_tasks", "classes_per_task"),
    ("scenario.classes_per_task=2", "scenario.n_tasks", "classes_per_task"),
    ("scenario.base=4", "scenario.base=4", "set scenario.n_tasks=null and scenario.classes_per_task=N"),
    ("scenario.base=4 scenario.n_tasks=null", "scenario.base=4", "classes_per_task=N"),
    ("scenario.base=4 scenario.classes_per_task=2", "scenario.base=4", "set scenario.n_tasks=null"),
    ("scenario.base=10 scenario.n_tasks=null scenario.classes_per_task=2", "scenario.base=10", "choose fewer"),
    ("scenario.base=0", "scenario.base=0", "greater than 0"),
    (
        "scenario.base=4 scenario.n_tasks=null scenario.classes_per_task=4",
        "scenario.classes_per_task=4: 6 classes after the first 4 (scenario.base) cannot be divided like this",
        "1, 2, 3, 6 (or scenario.uneven=true)",
    ),
    (
        "scenario=task_incremental scenario.base=1 scenario.n_tasks=null scenario.classes_per_task=3",
        "scenario.kind=task",
        "task 1 would have one class",
    ),
    ("scheduler=multistep scheduler.milestones=[1.5]", "scheduler.milestones=[1.5]", "less than 1"),
    ("scheduler=cosin", "scheduler=cosin", "'cosine'"),
    ("scheduler=cosine scheduler.warmup=1", "scheduler.warmup=1", "less than 1"),
    ("scheduler=cosine scheduler.floor=2", "scheduler.floor=2", "less than or equal to 1"),
    ("scheduler=plateau scheduler.factor=1", "scheduler.factor=1", "less than 1"),
    ("scheduler=plateau scheduler.monitor=val_loss", "scheduler.monitor=val_loss", "'val_accuracy' or 'train_loss'"),
    ("scheduler=plateau", "scheduler.monitor=val_accuracy", "set e.g. scenario.val_fraction=0.1"),
    ("method=finetune trainer.patience=2", "trainer.patience=2", "set e.g. scenario.val_fraction=0.1"),
    ("trainer.patience=0", "trainer.patience=0", "greater than 0"),
    ("trainer.gradient_clip=0", "trainer.gradient_clip=0", "greater than 0"),
    ("label_smoothing=1", "label_smoothing=1", "less than 1"),
    ("optimizer=sgd optimizer.nesterov=true", "optimizer.nesterov=true", "optimizer.momentum=0.9"),
    ("optimizer=adam optimizer.nesterov=true", "optimizer.nesterov: no such key"),
    ("method=finetune trainer.freeze_batch_norm=true", "trainer.freeze_batch_norm=true", "no batch normalization"),
    ("scenario.class_order=[0,1]", "scenario.class_order=[0,1]", "0 to 9"),
    ("scenario.class_order=[0,a]", 'scenario.class_order=[0,"a"]', "as number or name"),
    ("scenario.meta_classes=1", "scenario.meta_classes=1", "greater than or equal to 2"),
    ("scenario.meta_classes=10", "scenario.meta_classes=10", "choose fewer"),
    (
        "scenario.meta_classes=8",
        "scenario.n_tasks=5",
        "2 classes besides the 8 of scenario.meta_classes",
        "choose 1, 2",
    ),
    ("scenario.meta_classes=[nine,1]", 'scenario.meta_classes=["nine",1]', "their names"),
    ("scenario=permuted scenario.meta_classes=5", "scenario.meta_classes: no such key"),
    ("method=oml", "scenario.meta_classes=null", "scenario.meta_classes=5"),
    ("method=oml scenario=permuted", "scenario.meta_classes=null", "scenario=class_incremental"),
    (
        "method=oml scenario.meta_classes=5 method.trajectory_classes=6",
        "method.trajectory_classes=6",
        "choose at most this number",
    ),
    ("scenario.val_fraction=0.999", "scenario.val_fraction=0.999"),
    ("scenario=task_incremental scenario.n_tasks=10", "scenario.kind=task", "choose fewer tasks"),
    ("method=packnet scenario=permuted ~scenario.kind", "scenario.kind: needs a value"),
    ("method=packnet", "method=packnet", "scenario=class_incremental", "try scenario=task_incremental"),
    (
        "method=hat scenario=domain_incremental experiment=split_mnist trainer.iterations=null",
        "method=hat",
        "try scenario=task_incremental",
    ),
    ("trainer.iterations=5", "trainer.epochs=1: has no effect with trainer.iterations=5; leave it out"),
    ("tuned_on=foo", "tuned_on=foo", "all_tasks or first_N_tasks"),
    ("hydra/launcher=[null]", "hydra/launcher=[null]", "Hydra cannot use this value"),
    ("scenario.batch_size=7", "scenario.batch_size=7", "set scenario.passes=online, or trainer.batch_size=7"),
    ("scenario.repeat=true", "scenario.repeat=true", "set scenario.passes=online"),
    ("method=packnet scenario=task_incremental method.retrain_epochs=1 method.retrain_steps=2", "retrain_epochs=1"),
    ("method=dgm scenario=rotated", "method=dgm", "scenario=rotated", "try scenario=class_incremental"),
    ("method=icarl scenario=permuted", "method=icarl", "try scenario=class_incremental, scenario=task_incremental"),
    *((f"method={name} scenario=permuted", f"method={name}", "try scenario=class_incremental") for name in BIASED),
    *(
        (f"method={name} memory=9", "memory.images=9: less than 1 image for each of 10 classes", "set at least 10, or")
        for name in BIASED
        if name != "bic"  # needs two
    ),
    ("method=wa memory=1 memory.per=task", "memory.images=1", "less than 1 image for each of 2 classes of a task"),
    ("method=lucir memory=1 memory.per=task", "memory.images=1", "less than 1 image for each of 2 classes of a task"),
    ("method=bic memory=19", "less than 2 images for each of 10 classes", "set at least 20, or memory.per=class"),
    ("method=bic memory=3 memory.per=task", "less than 2 images for each of 2 classes of a task; set at least 4"),
    ("method=bic memory=1 memory.per=class", "memory.images=1: less than 2 images for each class; set at least 2"),
    ("method=bic memory=1", "memory.images=1: less than 2 images for each of 10 classes", "set at least 20"),
    ("method=bic method.held_out=1", "method.held_out=1", "less than 1"),
    ("method=icarl method.answer=median", "method.answer=median", "'mean' or 'network'"),
    ("method=icarl memory=9", "memory.images=9", "less than 1 image for each of 10 classes"),
    ("method=gem memory.bytes=700", "memory.bytes=700", "holds 9 images, less than 1 image for each of 10 classes"),
    ("method=der memory.bytes=113", "memory.bytes=113", "an image takes 114"),
    ("method=gem memory.bytes=100", "memory.bytes=100: holds 1 image, less than 1 image", "set at least 740"),
    ("method=icarl memory=1 memory.per=task", "memory.images=1", "less than 1 image for each of 2 classes of a task"),
    ("method=er memory.per=class", "memory.per=class", "set method.selection=random or memory.per=total"),
    ("method=der memory.per=task", "memory.per=task", "set memory.per=total"),
    ("memory=0", "memory.images=0", "greater than 0"),
    ("memory=null", "memory.images=null", "valid integer"),
    ("method=ewc memory.images=many", "memory.images=many", "valid integer"),
    ("memory.per=stream", "memory.per=stream", "'total', 'class' or 'task'"),
    ("memory.budget=9", "memory.budget", "choose from memory.bytes, memory.images, memory.per"),
    ("method=er ~memory", "memory=null", "memory.images=200"),
    ("method=er method.weighting=by_task", "method.weighting=by_task", "set method.selection=random"),
    ("method=dgr method.balance=true method.replay=fresh", "method.balance=true", "method.replay=fixed"),
    ("method=dgr gan@method.gan=dcgan dataset.size=9", "dataset.size=9", "a multiple of 4; try 32"),
    ("method=hat scenario=task_incremental network=resnet_gan", "network: method=hat", "choose network=mlp"),
    ("method=supsup network=resnet18", "network: method=supsup masks the weights", "choose network=mlp"),
    ("method=supsup method.objective=G", "method.objective=G", "set method.superfluous"),
    (
        "method=clnp scenario=task_incremental network=resnet18",
        "network: every task changes its running statistics",
        "network=mlp",
    ),
    ("method=clnp scenario=task_incremental", "scenario.val_fraction=0.0: method=clnp", "try 0.1"),
    ("method=pnn scenario=task_incremental network=resnet18", "network: method=pnn", "choose network=mlp"),
    ("method=pnn", "method=pnn", "scenario=class_incremental", "try scenario=task_incremental"),
    ("method=pnn scenario.kind=domain", "scenario=class_incremental (domain-incremental); try scenario.kind=task"),
    ("method=lucir scenario=permuted scenario.kind=task", "scenario=permuted", "try scenario.kind=class"),
    (
        "method=den scenario=task_incremental method.new_units=1000000000",
        "method.new_units=1000000000: needs",
        "GB of memory to train",
        "choose at most ",
    ),
    ("method=den scenario=task_incremental network=cnn", "network: method=den", "choose network=mlp"),
    ("method=progress_compress network=resnet18", "network: method=progress_compress", "choose network=mlp"),
    ("method=packnet scenario=task_incremental network=dcgan network.norm=batch", "network.norm=none"),
    (
        "method=packnet scenario=task_incremental network=resnet18",
        "network: every task changes its running statistics",
        "network=mlp",
    ),
    ("method=packnet scenario=task_incremental method.prune=[0.5]", "method.prune=[0.5]", "each of 5 tasks"),
    ("method=mergan gan@method.gan=mlp", "method.gan._target_", "is not of type ACGAN"),
    ("hparams_search=strength", "hparams_search.space.method.strength", "there is no method.strength"),
    ("hparams_search=learning_rate scenario.val_fraction=0", "scenario.val_fraction=0", "try 0.1"),
    ("hparams_search=learning_rate hparams_search.first_tasks=6", "hparams_search.first_tasks=6", "5 tasks"),
    ("-m hparams_search=learning_rate seed=0,1", "hparams_search with -m"),
    # files and machines
    ("dataset=npz", "dataset.path", "needs a value"),
    ("dataset=npz dataset.path=none.npz", "none.npz is missing", "x_train"),
    ("dataset=npz dataset.path=FILES/cut.npz", "cut.npz", "damaged"),
    ("dataset=npz dataset.path=FILES/nothing.npz", "nothing.npz", "damaged"),
    ("dataset=npz dataset.path=FILES/pickled.npz", "pickled.npz", "y_train cannot be read", "plain numbers"),
    ("dataset=npz dataset.path=FILES/nan.npz", "nan.npz", "x_train is float64", "uint8, 0 to 255"),
    ("dataset=npz dataset.path=FILES/one.npz", "one.npz", "single class", "at least 2"),
    ("dataset=npz dataset.path=FILES/gap.npz", "gap.npz", "class 3 is in y_train but never in y_test"),
    ("dataset=npz dataset.path=FILES/far.npz", "far.npz", "y_train has the label 18446744073709551615"),
    ("dataset=npz dataset.path=FILES/sizes.npz", "sizes.npz", "1x8x8 in x_train but 1x9x9 in x_test"),
    ("dataset=npz dataset.path=FILES", "is missing"),
    ("dataset=npz 'dataset.path=\"~nosuchuser/x.npz\"'", "dataset.path='~nosuchuser/x.npz'", "is not a path"),
    ("dataset=image_folder dataset.path=FILES/empty", "empty", "there is no class folder"),
    ("dataset=image_folder dataset.path=FILES/pictures", ".png is damaged"),
    ("dataset=image_folder dataset.path=FILES/cut.npz", "cut.npz"),
    ("dataset=files", "dataset.path", "needs a value"),
    ("dataset=files dataset.path=FILES/my.csv", "my.csv", "2 pictures are missing: line 2 (no.png), line 4 (nor.png)"),
    ("dataset=torchvision", "dataset.name", "needs a value"),
    ("dataset=torchvision dataset.name=EMNITS", "dataset.name=EMNITS", "did you mean 'EMNIST'?"),
    ("dataset=huggingface", "dataset.path: give a folder"),
    ("dataset=huggingface dataset.path=FILES/empty", "empty is not a folder that save_to_disk made"),
    ("dataset=tiny_imagenet data_dir=FILES", "dataset=tiny_imagenet", "tiny-imagenet-200 is missing"),
    ("dataset.classes=[1,77]", "dataset.classes=[1,77]", "from 0 to 9"),
    ("dataset.classes=[3]", "dataset.classes=[3]", "at least 2 are needed"),
    ("dataset=npz dataset.path=FILES/two.npz dataset.mean=[0.5]", "dataset.mean: needs dataset.std"),
    ("dataset=npz dataset.path=FILES/two.npz dataset.mean=[0.5] dataset.std=[0]", "dataset.std=[0]", "greater than 0"),
    ("scenario=sequence scenario.datasets=[digits,FILES/two.npz]", "scenario.kind=domain", "two has 2", "kind=task"),
    ("scenario=sequence scenario.datasets=[digits,FILES/cut.npz]", "cut.npz", "damaged"),
    ("scenario.classes_per_task=5", "scenario.n_tasks=5: scenario.classes_per_task=5 divides", "n_tasks=null"),
    ("scenario.n_tasks=null", "scenario.n_tasks=null: scenario.classes_per_task=null", "set one of the two"),
    ("scenario=sequence scenario.datasets=[]", "scenario.datasets=[]", "at least one"),
    ("scenario=sequence scenario.datasets=[digits,5]", "scenario.datasets", "string"),
    ("dataset=npz dataset.path=FILES/wrong.npz", "wrong.npz", "x_train", "(4, 3)"),
    ("scenario=sequence scenario.datasets=[mnst]", "mnst", "did you mean 'mnist'?"),
    ("dataset=mnist data_dir=FILES", "dataset=mnist", "missing"),
    ("trainer.accelerator=gpu", "trainer.accelerator=gpu", "cpu or auto"),
    ("output_root=FILES/cut.npz/x", "output_root", "cut.npz/x", "Not a directory"),
    ("output_root=/proc/x", "output_root", "/proc/x"),
    ("output_root=", "output_root=''", "is not a path"),
    ("data_dir=", "data_dir=''", "is not a path"),
    ("continue_from=", "continue_from=''", "is not a path"),
    ("continue_from=FILES/nowhere", "continue_from=", "nowhere: no such folder"),
    ("trainer.label_smoothing=0.1", "trainer.label_smoothing: no such key; did you mean 'label_smoothing'?"),
    ("gradient_clip_val=1", "gradient_clip_val: no such key; did you mean 'trainer.gradient_clip'?"),
    ("'output_root=\"~nosuchuser\"'", "output_root='~nosuchuser'", "is not a path"),
    ("--config-dir=FILES method=broken", "broken.yaml, line 2", "is not YAML"),
    ("--config-dir=FILES method=bytes", "method=bytes", "file can't be read"),
    ("--config-dir=FILES method=open", "a: ", "${nope"),
    ("--config-dir=FILES/nosuch", "nosuch", "not found"),
    ("--config-dir=FILES experiment=trial", "trial: no such key"),
    ("--config-dir=FILES experiment=both", "trainer.epochs=3: has no effect with trainer.iterations=9", "leave"),
    ("hydra.job.chdir=maybe", "hydra.job.chdir", "'maybe' is not a valid bool"),
    ("hydra.verbose=5", "hydra.verbose=5", "cannot use"),
    ("hydra.verbose='???'", "hydra.verbose", "needs a value"),
    ("-m seed=0,1 output_root=FILES/cut.npz/x", "output_root", "cut.npz/x", "Not a directory"),
    ("reference=nonsense", "reference=nonsense", "no finished run of 5 tasks"),
    ("reference=FILES/cut.npz", "reference=", "no finished run of 5 tasks"),
    # code from elsewhere
    ("method._target_=os.system", "method._target_=os.system", "not a part of cl_bench"),
    ("method._target_=cl_bench.files.os", "not a part of cl_bench"),
    ("method._target_=cl_bench.nosuch.X", "does not exist"),
    ("method._target_=cl_bench.networks.mlp.MLP", "is not of type Method"),
    ("~method._target_", "method: needs a choice"),
    ("method=dgr method.gan._target_=os.system", "method.gan._target_=os.system"),
    # one wrong name in a sweep: nothing of it begins
    ("-m method=finetune,nosuch", "method=nosuch", "choose from"),
    ("-m method=dgr,ewc method.strength=1", "method.strength: no such key"),
]
SMALL = ["trainer.epochs=1", "trainer.threads=1", "network.hidden=[8]", "method=finetune"]

Told = Callable[[str], tuple[int, list[str]]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of damaged files."""
    files = tmp_path_factory.mktemp("files")
    (files / "cut.npz").write_bytes(b"PK\x03\x04")
    flat, labels = np.zeros((4, 3), np.uint8), np.zeros(4, int)
    np.savez(files / "wrong.npz", x_train=flat, y_train=labels, x_test=flat, y_test=labels)
    x, y = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])
    for name, other in {
        "two": {},
        "nan": {"x_train": np.full((4, 8, 8), np.nan)},
        "one": {"x_train": x[:1], "y_train": y[:1]},
        "gap": {"y_train": np.array([0, 1, 3, 3])},
        "far": {"y_train": y.astype(np.uint64) * (2**64 - 1)},
        "sizes": {"x_test": np.zeros((4, 9, 9), np.uint8)},
        "pickled": {"y_train": np.array([0, 1, 0, None])},
    }.items():
        np.savez(files / f"{name}.npz", **({"x_train": x, "y_train": y, "x_test": x, "y_test": y} | other))
    (files / "nothing.npz").touch()
    (files / "my.csv").write_text("path,label\nno.png,a\nempty/../my.csv,a\nnor.png,b\n")
    (files / "empty").mkdir()
    for picture in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (files / "pictures" / picture).parent.mkdir(parents=True, exist_ok=True)
        (files / "pictures" / picture).write_text("no picture")
    (files / "method").mkdir()
    (files / "method" / "broken.yaml").write_text("a: [1\nb: {")
    (files / "method" / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (files / "experiment").mkdir()
    (files / "experiment" / "trial.yaml").write_text("# @package _global_\ntrial: {first_tasks: 2}")
    (files / "experiment" / "both.yaml").write_text("# @package _global_\ntrainer: {epochs: 3, iterations: 9}")
    (files / "experiment" / "out.yaml").write_text(
        "# @package _global_\ndefaults: [{override /optimizer: ../optimizer/sgd}]"
    )
    (files / "method" / "open.yaml").write_text("a: ${nope")
    return files


@pytest.fixture
def told(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Told]:
    """`told(COMMAND)`: its exit code and the lines on stderr, from an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "argv", ["cl_bench"])
    handlers, level = logging.root.handlers[:], logging.root.level  # Hydra puts its own

    def run(command: str) -> tuple[int, list[str]]:
        given = shlex.split(command.replace("FILES", str(files)))
        keys = {one.partition("=")[0] for one in given}
        keys |= {"network.hidden"} if "network" in keys else set()
        keys |= {"trainer.epochs"} if "experiment" in keys else set()
        code = main([*(one for one in SMALL if one.partition("=")[0] not in keys), *given])
        return code, capsys.readouterr().err.splitlines()

    yield run
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.mark.parametrize(("command", "parts"), [pytest.param(one, parts, id=one) for one, *parts in BAD])
def test_one_line_says_what_is_wrong(command: str, parts: list[str], told: Told) -> None:
    code, lines = told(command)
    assert code == 1
    assert len(lines) == 1, "\n".join(lines)
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]
    assert not list(Path("outputs").glob("*/*/*"))  # no run was begun


def test_a_sweep_goes_on_after_a_bad_job(told: Told) -> None:
    code, lines = told("-m trainer.epochs=-1,1 seed=0")
    assert code == 1
    assert len(lines) == 1
    assert "trainer.epochs=-1: input should be greater than 0" in lines[0]
    assert "seed=0" in lines[0]  # which of the jobs it was
    assert len(list(Path("outputs").glob("*/*/results.json"))) == 1


def test_a_loss_that_is_no_number_is_one_line_and_a_failed_run(told: Told) -> None:
    code, lines = told("optimizer.lr=1e30")
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("error: task 1, ")
    (results,) = Path("outputs").glob("*/*/results.json")
    assert '"status": "failed"' in results.read_text()


def test_debug_shows_the_traceback_before_the_line(told: Told) -> None:
    code, lines = told("debug=true scenario.n_tasks=3")
    assert code == 1
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("error: scenario.n_tasks=3")


def test_what_nobody_expected_comes_with_its_traceback(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    from cl_bench.methods.finetune import Finetune

    monkeypatch.setattr(Finetune, "learn", lambda *_: 1 // 0)
    code, lines = told("seed=0")
    assert code == 1
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "error: ZeroDivisionError: integer division or modulo by zero"


def test_a_foreign_target_is_never_called(told: Told) -> None:
    for group in ("method", "network", "scenario"):
        told(f"++{group}._target_=os.system ++{group}.command='touch executed'")
        told(f"{group}._target_=os.system")
    assert not Path("executed").exists()


def test_another_reference_is_looked_at_even_when_the_run_is_finished(told: Told) -> None:
    assert told("seed=0") == (0, [])
    code, lines = told("seed=0 reference=nonsense")
    assert code == 1
    assert lines == ["error: reference=nonsense: there is no finished run of 5 tasks in it"]
    (results,) = Path("outputs").glob("*/*/results.json")
    assert "intransigence" not in results.read_text()
    assert told("method=joint")[0] == 0
    (joint,) = Path("outputs").glob("*joint/*")
    before = (results.parent / "checkpoints" / "task4.pt").stat().st_mtime_ns
    code, lines = told(f"seed=0 scenario.class_order=random reference={joint}")
    assert code == 1
    assert "has other tasks (digits-class_incremental-joint-seed0)" in lines[0]
    assert told(f"seed=0 reference={joint}") == (0, [])
    assert "intransigence" in results.read_text()
    assert (results.parent / "checkpoints" / "task4.pt").stat().st_mtime_ns == before  # nothing was trained again


def test_nothing_is_a_choice_where_the_files_say_null(told: Told) -> None:
    """`conf/config.yaml` says `experiment: null`, and what it says can be typed."""
    assert told("experiment=null hparams_search=null tuned=null tuned/scenario=null +seed=0") == (0, [])


def test_a_wrong_command_leaves_an_earlier_result_alone(told: Told) -> None:
    assert told("seed=0") == (0, [])
    (results,) = Path("outputs").glob("*/*/results.json")
    before = results.read_bytes()
    for bad in ("resume=false trainer.accelerator=gpu", "resume=false reference=nonsense", "resume=false logger.x=1"):
        assert told(f"seed=0 {bad}")[0] == 1
    assert [*Path("outputs").glob("*/*/results.json")] == [results]
    assert results.read_bytes() == before


def test_really_one_line_from_a_real_process(tmp_path: Path) -> None:
    """The two ways out of Hydra: before there is a job, and from inside one."""
    for bad in ("method=nosuch", "seed=abc"):
        command = [sys.executable, "-m", "cl_bench", bad]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert ended.stdout == ""
        assert len(ended.stderr.splitlines()) == 1
        assert ended.stderr.startswith(f"error: {bad}")


def test_compose_refuses_the_same(tmp_path: Path) -> None:
    from cl_bench.config import InputError
    from cl_bench.runs.loop import run

    settings = compose("method=finetune", f"output_root={tmp_path}") | {"network": {"_target_": "os.system"}}
    with pytest.raises(InputError, match=r"network\._target_=os\.system"):
        run(settings)
