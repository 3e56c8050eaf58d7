"""What a run folder holds, as digests that leave out figures of time and memory."""
import hashlib
import json
import re
import shutil

# Fields that tell of the machine, or of the process that ended the work and not of the result; and the digests of
# what has such fields.
VOLATILE = re.compile(r"(^|_)seconds$|_per_s$|memory_bytes$|^(embedded_tokens|machine|performance|sha256)$"
                      r"|/report\.json$")
# Files that are no results, in the folder of any run.
NO_RESULTS = {".lock", "digests.json", "log.jsonl", "events.out.tfevents.llmbs"}


def settled(value):
    """A JSON value without its volatile fields."""
    if isinstance(value, dict):
        return {key: settled(below) for key, below in value.items() if not VOLATILE.search(key)}
    return [settled(below) for below in value] if isinstance(value, list) else value


def settled_text(text):
    """JSON without its volatile fields, as text; anything else as it is."""
    try:
        return json.dumps(settled(json.loads(text)), sort_keys=True)
    except ValueError:
        return text


def digest(path):
    """The digest of a file's content, of JSON without its volatile fields."""
    content = path.read_bytes()
    if path.suffix == ".json":
        content = settled_text(content.decode(errors="replace")).encode()
    return hashlib.sha256(content).hexdigest()


def files(folder):
    """The files of a folder at any depth, by their path in it."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def snapshot(folder, prefixes=("",)):
    """The digests of all results in a folder whose paths begin so."""
    return {name: digest(path) for name, path in files(folder).items()
            if path.name not in NO_RESULTS and name.startswith(tuple(prefixes))}


def is_made(run):
    """Whether a run has a whole result that is not in its place yet."""
    manifest = run / "manifest.json"
    if not manifest.exists():
        return False
    return any(record["status"] == "done" for record in json.loads(manifest.read_text()).get("unfinished", {}).values())


def differences(found, expected):
    """The paths at which two snapshots differ."""
    return sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))


def place_of_difference(found, expected):
    """Where two JSON values first differ, as a path of keys."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted({*found, *expected}):
            if found.get(key) != expected.get(key):
                return f".{key}{place_of_difference(found.get(key), expected.get(key))}"
    return ""


def describe(name, found, expected):
    """The name of a file that differs, with where, if it is JSON."""
    try:
        values = [settled(json.loads((folder / name).read_text())) for folder in (found, expected)]
    except ValueError:
        return name
    return f"{name} at {place_of_difference(*values) or 'its top'}"


def left_behind(folder, expected):
    """The paths in a folder that an undisturbed one does not have."""
    paths = [{str(path.relative_to(each)) for path in each.rglob("*") if path.name not in NO_RESULTS}
             for each in (folder, expected)]
    return sorted(paths[0] - paths[1])


def torn_lines(folder):
    """Those lines of the logs in a folder that are no JSON."""
    torn = []
    for path in sorted(folder.rglob("log.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                json.loads(line)
            except ValueError:
                torn.append(f"{path.relative_to(folder)}:{number}")
    return torn


def copy(source, target):
    """A copy of a folder, times included, in place of what stands there; nothing where there is none."""
    shutil.rmtree(target, ignore_errors=True)
    if source.exists():
        shutil.copytree(source, target)
    return target
