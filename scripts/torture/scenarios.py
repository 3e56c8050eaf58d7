"""The commands that are disturbed, what they are given, and what has to hold of what they write."""
import collections
import random
import subprocess

# The shop: drawn by each command, or read from a folder, of which a run keeps a copy.
SHOP = {"users": 80, "items": 60, "groups": 6}
DRAWN = "\n".join(["[data.synthetic]", *(f"{key} = {value}" for key, value in SHOP.items())])
READ = '[data]\npath = "Shop"'
CONFIG = """
%(data)s
[backbone.scratch]
vocab-size = 400
hidden-size = 32
intermediate-size = 64
num-hidden-layers = 2
num-attention-heads = 2
num-key-value-heads = 1
[index]
method = "%(method)s"
[index.rq-vae]
steps = 30
[index.semantic]
k = 8
[index.behavior]
k = 8
encoder = "%(encoder)s"
[index.behavior.din]
dim = 8
epochs = 2
[index.behavior.sasrec]
epochs = 2
[train.tasks]
held-out = 0.25
[train.distillation]
weight = %(distillation)s
[train.warmup]
epochs = 1
[train.validation]
users = 20
[train.initial]
epochs = 2
batch = 32
learning-rate = 3e-3
ema = %(ema)s
save-every = 3
[train.anneal]
learning-rate = 1e-3
batch = 16
save-every = 3
[baseline.sasrec]
epochs = 2
"""
VARIANTS = {
    "din": {"data": DRAWN, "method": "hierarchical-kmeans", "encoder": "din", "distillation": 0.0, "ema": 0.0},
    "sasrec": {"data": READ, "method": "rq-vae", "encoder": "sasrec", "distillation": 0.5, "ema": 0.5},
}
NEW_ITEMS = '{"60": {"title": "Kestrine Studio Glossy Eyeshadow Palette in Black, 3 g"}}'
# Two cells that share their index, and a baseline beside them.
ABLATION = """
seeds = [1]
split = "valid"
metrics = ["recall@10"]
baselines = ["sasrec"]
[grid]
"train.initial.learning-rate" = [3e-3, 1e-3]
"""
# Rows, users and items of the logs that are imported, and how many days they begin after the first.
LOGS = {"log": (4000, 300, 200, 0), "other-log": (3000, 200, 250, 0), "later-log": (900, 260, 270, 9),
        "monday": (900, 80, 50, 0), "tuesday": (250, 80, 58, 9)}

INDEX, INITIAL, ANNEAL = ["index"], ["train", "--stage", "initial"], ["train", "--stage", "anneal"]
EVAL, BASELINE = ["eval", "--json"], ["baseline", "sasrec", "--json"]
ADD = ["index", "add", "{root}/new-items.json", "--json"]
RECOMMEND = ["recommend", "--history", "3,14,15", "--json"]
PIPELINE = [INDEX, INITIAL, ANNEAL, EVAL, BASELINE]
# The run that others go on from.
MONDAY = "{root}/Monday-{variant}"

# A command: its words; those places in its folder that at every moment, and after every kill, are as they were or as
# they are to be; and what it says where all is done already, if it does nothing twice. {run} is the folder, {root}
# that of what is given, {variant} the name of the configuration.
Step = collections.namedtuple("Step", "words whole refusal", defaults=((), None))


def imports(name, refusal, *more):
    """Makes the dataset folder `Shop` of a log."""
    given = ["{root}/%s.csv" % name, "--items", "{root}/items.csv", "--out", "{run}/Shop"]
    return Step(["data", "import", *given, "--json", *more], ("Shop/",), refusal)


def appends(name):
    """Puts the later days of a log behind the dataset folder `Shop`; given again, it says that there is nothing new."""
    given = ["{root}/%s.csv" % name, "--items", "{root}/items.csv", "--append", "--out", "{run}/Shop"]
    return Step(["data", "import", *given], ("Shop/",))


def exports(form, refusal, *more):
    """Writes the dataset folder `Shop` in another format."""
    given = ["{run}/Shop", "--format", form, "--out", "{run}/Exported", "--json"]
    return Step(["data", "export", *given, *more], ("Shop/", "Exported/"), refusal)


def follows(words, *whole):
    """Goes on from a finished run with the data of later days."""
    return Step(["--set", "data.path={root}/Later", *words], whole)


def writes(name, *words):
    """Writes one file beside the run."""
    return Step([*words, "{run}/" + name], (name,))


# Commands one after another on one folder, which is empty at first.
CHAINS = {
    "pipeline": [
        Step(INDEX, ("index/", "backbone/")), Step(INITIAL, ("index/", "backbone/", "initial/")),
        Step(ANNEAL, ("index/", "initial/", "anneal/")), Step(EVAL, ("initial/", "anneal/")),
        Step(BASELINE, ("initial/", "anneal/")), Step(ADD, ("index/", "added.json")),
        writes("samples.jsonl", "data", "samples", "--out"), writes("index.html", "index", "report", "--html"),
        writes("answers.jsonl", "recommend", "--all-users", "--out"),
        writes("answers.parquet", "recommend", "--all-users", "--out"),
        Step(["export", "--merged", "--out", "{run}/Model", "--json"], ("Model/",), "is there already"),
    ],
    "data": [
        imports("log", "is there already"), imports("other-log", None, "--force"),
        appends("later-log"),
        exports("recbole", "is there already"), exports("lcrec", None, "--force"),
        writes("shop.toml", "init", "{run}/Shop", "--force", "--out"),
        Step(["data", "synth", "--out", "{run}/Synth"], ("Synth/",), "is there already"),
    ],
    "following": [
        follows(["index", "--extend", MONDAY], "index/", "backbone/"),
        follows(["train", "--continue", MONDAY], "index/", "initial/"),
        follows(["import-adapter", MONDAY + "/anneal"], "initial/", "anneal/"),
    ],
    "imported": [
        Step(["--set", "data.path={root}/Early", "index", "import", MONDAY + "/index/index.json"],
             ("index/", "backbone/")),
    ],
    "run": [Step(["run"], ("index/", "backbone/", "initial/", "anneal/"))],
    "ablate": [Step(["ablate", "{root}/ablation.toml", "--json"])],
}
# A finished run with an item added to its index is so many steps of the pipeline.
WHOLE = 1 + len(PIPELINE)


def provide(root, binary):
    """Writes what the commands are given."""
    shop = [word for key, value in SHOP.items() for word in ("--set", f"data.synthetic.{key}={value}")]
    subprocess.run([binary, "--quiet", *shop, "data", "synth", "--out", root / "Shop"], cwd=root, check=True,
                   stdout=subprocess.DEVNULL)
    for name, settings in VARIANTS.items():
        (root / f"{name}.toml").write_text(CONFIG % settings)
    (root / "new-items.json").write_text(NEW_ITEMS)
    (root / "ablation.toml").write_text(ABLATION)
    for name, (rows, users, items, days) in LOGS.items():
        draws = random.Random(name)
        lines = [f"u{draws.randrange(users)},i{draws.randrange(items)},{1_600_000_000 + 86_400 * days + 60 * row}"
                 for row in range(rows)]
        (root / f"{name}.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines, ""]))
    texts = [f'i{item},"Item {item}, of brand {item % 7}",A description of it,b{item % 7},"Some, kind {item % 11}"'
             for item in range(max(items for _, _, items, _ in LOGS.values()))]
    (root / "items.csv").write_text("\n".join(["item_id,title,description,brand,categories", *texts, ""]))
    imported = [binary, "--quiet", "data", "import", "--items", "items.csv", "--out"]
    commands = [[*imported, "Early", "monday.csv"], [*imported, "Later", "monday.csv"],
                [*imported, "Later", "tuesday.csv", "--append"]]
    for name in VARIANTS:
        run = ["--config", f"{name}.toml", "--run", f"Monday-{name}", "--set", "data.path=Early"]
        commands += [[binary, "--quiet", *run, *words] for words in [INDEX, INITIAL, ANNEAL]]
    for command in commands:
        subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
